"""What a fault would put out, in float64, and how far rounding may carry a path from that."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.faults import Fault
from harness.faults.model import Attention, products
from harness.oracle.budget import Precision, budget
from harness.oracle.golden import Chunk, Golden


@dataclass(frozen=True)
class Prediction:
    """``output`` ``[B, H, Q, Dv]`` and ``logsumexp`` ``[B, H, Q]`` of a call with a fault, float64,
    and elementwise bounds on what rounding adds to each."""

    output: Tensor
    logsumexp: Tensor
    output_bound: Tensor
    logsumexp_bound: Tensor


def predict(
    fault: Fault, sound: Attention, precision: Precision, heads: list[int] | None = None
) -> Prediction | None:
    """The call ``sound`` (float64) with the fault in it; None where the case cannot show it.

    Args:
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
    # A row with nothing to attend need not be exact: the fault may have put something there.
    normaliser = logsumexp.nan_to_num(neginf=0.0)
    # Scores whose softmax are these weights: some faults' weights are no softmax of their scores.
    score = (weights.log() + normaliser[..., None]).nan_to_num(nan=-math.inf, neginf=-math.inf)
    product = (broken.query.abs() @ _finite(broken.key).abs().mT) * broken.scale
    constant = sum(kind.constant(case.scores[kind.name]) for kind in case.score_kinds)
    intermediate = _finite(scores - products(broken)).abs() + constant
    value = _finite(broken.value)
    score, product, intermediate = (
        x.broadcast_to(score.shape).unsqueeze(2) for x in (score, product, intermediate)
    )

    def source(b: int) -> list[Chunk]:
        return [Chunk(score[b], product[b], intermediate[b], value[b].unsqueeze(1))]

    if fault.rounding is not None:
        precision = dataclasses.replace(precision, **fault.rounding)
    parameters = {name: x[broken.score_head] for name, x in broken.inputs.parameters.items()}
    inputs = dataclasses.replace(broken.inputs, case=case, parameters=parameters)
    expected = Golden(output, normaliser, score.amax(-1).squeeze(2))
    bound = budget(inputs, expected, precision, source=source)
    return Prediction(output, logsumexp, bound.output, bound.logsumexp)


def _finite(x: Tensor) -> Tensor:
    return x if x.isfinite().all() else torch.nan_to_num(x, 0.0, 0.0, 0.0)
