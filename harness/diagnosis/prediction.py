"""Predictions: what a fault would put out, in float64, with bounds on what rounding adds to it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case.precision import UNIT_ROUNDOFF, Precision
from harness.faults import Fault
from harness.faults.model import Attention, products
from harness.oracle.budget import budget
from harness.oracle.golden import Chunk, Golden


@dataclass(frozen=True)
class Prediction:
    """What a call with a fault would return, float64: ``output`` ``[B, H, Q, Dv]`` and
    ``logsumexp`` ``[B, H, Q]``, with elementwise bounds on what rounding adds to each."""

    output: Tensor
    logsumexp: Tensor
    output_bound: Tensor
    logsumexp_bound: Tensor


def predict(
    fault: Fault, sound: Attention, precision: Precision, heads: list[int] | None = None
) -> Prediction | None:
    """The prediction of a fault: what the call ``sound`` (float64) would return with the fault in
    it; None where the case cannot show the fault.

    Args:
        precision: what the path declares of its arithmetic, for the bounds.
        heads: the query heads to compute, all by default.
    """
    broken = fault.change(sound)
    if broken is None:
        return None
    if heads is not None:
        broken = broken.take_heads(heads)
    case = broken.case.replace(heads=broken.query.size(1), kv_heads=broken.query.size(1))
    scores = broken.scores(broken)
    weights, logsumexp = broken.normalise(broken, scores)
    output = broken.combine(broken, weights)
    # Budgets are 0 where the logsumexp is -inf. A row with nothing to attend gets 0 for it here,
    # since the fault may put something there that is subject to rounding.
    normaliser = logsumexp.nan_to_num(neginf=0.0)
    # These are scores whose softmax gives the weights, since the weights of some faults are not the
    # softmax of their scores.
    score = (weights.log() + normaliser[..., None]).nan_to_num(nan=-math.inf, neginf=-math.inf)
    product = (broken.query.abs() @ _finite(broken.key).abs().mT) * broken.scale
    constant = sum(kind.constant(case.scores[kind.name]) for kind in case.score_kinds)
    intermediate = _finite(scores - products(broken)).abs() + constant
    if broken.unsure is not None:
        # The budget allows scores two roundings of their intermediate values.
        roundoff = UNIT_ROUNDOFF[precision.accumulator]
        intermediate = intermediate + broken.unsure(broken) / (2 * roundoff)
    value = _finite(broken.value)
    score, product, intermediate = (
        x.broadcast_to(score.shape).unsqueeze(2) for x in (score, product, intermediate)
    )

    def source(b: int) -> list[Chunk]:
        return [Chunk(score[b], product[b], intermediate[b], lambda: value[b])]

    if fault.rounding is not None:
        precision = dataclasses.replace(precision, **fault.rounding)
    parameters = {name: x[broken.score_head] for name, x in broken.inputs.parameters.items()}
    inputs = dataclasses.replace(broken.inputs, case=case, parameters=parameters)
    expected = Golden(output, normaliser, score.amax(-1).squeeze(2))
    bound = budget(inputs, expected, precision, source=source)
    return Prediction(output, logsumexp, bound.output, bound.logsumexp)


def _finite(x: Tensor) -> Tensor:
    return x if x.isfinite().all() else torch.nan_to_num(x, 0.0, 0.0, 0.0)
