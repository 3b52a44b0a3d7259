"""Emulation: what the declared arithmetic does to some rows, in every form that a kernel may take.

The budget bounds the error of declared roundings in the worst case; here they are carried out. An
*internal error* is an output before its last rounding less golden, in units in the last place of
golden in the output's dtype. It has two parts. What operands, scores, weights and the output lose
where they are declared in a dtype narrower than float32 is emulated in float64, rounding at these
places alone, for every form in ``forms``. What float32 arithmetic loses depends on the order of
each sum; it is emulated in float32 in several orders, among them the worst that is in use, one term
after the other, and counts ``SPREAD`` times, one bit, for the orders that are not emulated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.precision import Precision
from harness.oracle.budget import TENSOR_CORE_ROUNDOFF
from harness.oracle.rounding import narrower, rounded, spacing
from harness.oracle.rows import Rows

SPREAD = 2.0
# Slots after which an online softmax looks for a new maximum, and tensor cores' addends at a time.
_BLOCK, _TENSOR_CORE = 16, 16
_LOG2_E = math.log2(math.e)


def internal_errors(
    rows: Rows, golden: Tensor, outputs: Tensor, *, tensor_cores: bool = False
) -> Tensor:
    """Absolute internal errors of the declared arithmetic, float64 ``[forms, Hkv, G * Q, Dv]``.

    Args:
        golden: of the rows, float64 ``[Hkv, G * Q, Dv]``.
        outputs: of each of ``forms``.
        tensor_cores: whether sums may run on CUDA tensor cores, which cut off addends.
    """
    unit = spacing(golden, rows.inputs.case.dtype)
    orders = [(output.double() - golden).abs() for output in _float32_orders(rows)]
    lost = SPREAD * torch.stack(orders).amax(0)
    if tensor_cores:
        size = torch.softmax(rows.score, -1) @ rows.value.abs()
        lost = lost + (rows.score.size(-1) / _TENSOR_CORE) * TENSOR_CORE_ROUNDOFF * size
    return ((outputs - golden).abs() + lost) / unit


def unordered(precision: Precision) -> str | None:
    """The dtype of declared sums whose loss depends on their order so much that no emulation tells
    what a kernel may lose; None where sums are declared in float32 or float64."""
    return precision.accumulator if narrower(precision.accumulator, "float32") else None


def forms(rows: Rows, precision: Precision) -> Iterator[Tensor]:
    """The outputs ``[Hkv, G * Q, Dv]``, float64, of each form that the declared roundings below
    float32 may take; without any, the exact output."""
    case = rows.inputs.case
    operand = precision.operand or case.dtype
    weight = precision.weight or (operand if narrower(operand, case.dtype) else case.dtype)
    scores = [rows.score]
    if precision.operand is not None:
        scale = case.softmax_scale
        key = rounded(rows.key, operand)
        if narrower(operand, case.dtype):
            scores.append(rows.scored(query=rounded(rows.query, operand), key=key))
        scores += [
            rows.scored(query=rounded(rows.query * factor, operand) / factor, key=key)
            for factor in (scale, scale * _LOG2_E)
        ]
    if narrower(precision.score, "float32"):
        scores += [form for s in scores for form in score_forms(s, case, precision.score)]
    values = [rows.value]
    if narrower(operand, case.dtype):
        values.append(rounded(rows.value, operand))
    for score, value in itertools.product(scores, values):
        outputs = [torch.softmax(score, -1) @ value]
        if narrower(weight, "float32"):
            outputs += weight_forms(score, value, weight)
        for output in outputs:
            yield output
            if precision.output is not None and narrower(precision.output, case.dtype):
                yield rounded(output, precision.output)


def score_forms(score: Tensor, case: DecodeCase, dtype: str) -> list[Tensor]:
    """Scores that are rounded: as they are, in base 2, or before the scale (where a score_mod comes
    in between, as they are)."""
    scale = 1.0 if case.score != "none" else case.softmax_scale
    return [
        rounded(score, dtype),
        rounded(score * _LOG2_E, dtype) / _LOG2_E,
        rounded(score / scale, dtype) * scale,
    ]


def weight_forms(score: Tensor, value: Tensor, dtype: str) -> list[Tensor]:
    """Outputs with weights that are rounded: normalised; as exponentials below the largest score,
    or below the largest so far, as they are in an online softmax; these over their own sum too."""
    highest = score.amax(-1, keepdim=True)
    exponentials = torch.exp(score - highest)
    total = exponentials.sum(-1, keepdim=True)
    below = rounded(exponentials, dtype)
    running = _running_maximum(score)
    online = rounded(torch.exp(score - running), dtype) * torch.exp(running - highest)
    normalised = rounded(exponentials / total, dtype)
    weighted = torch.stack([normalised, below, online]) @ value
    own = [weighted[1] / below.sum(-1, keepdim=True), weighted[2] / online.sum(-1, keepdim=True)]
    return [weighted[0], weighted[1] / total, weighted[2] / total, *own]


def summed(rows: Rows, dtype: str, block: int, *, rounds: bool) -> Tensor:
    """The output ``[Hkv, G * Q, Dv]``, float64, where p @ v is summed in ``dtype``,
    ``block`` slots at a time; ``rounds`` says whether the weights are rounded to it too."""
    score = rows.score
    weights = torch.exp(score - score.amax(-1, keepdim=True))
    total = weights.sum(-1, keepdim=True)
    if rounds:
        weights = rounded(weights, dtype)
    output = torch.zeros(*score.shape[:-1], rows.value.size(-1), dtype=torch.float64)
    for start in range(0, score.size(-1), block):
        part = slice(start, start + block)
        output = rounded(output + weights[..., part] @ rows.value[:, part], dtype)
    return output / total


def _running_maximum(score: Tensor) -> Tensor:
    """The largest score of the slots up to the end of each slot's block; 0 before there is one."""
    slots = score.size(-1)
    padded = torch.nn.functional.pad(score, (0, -slots % _BLOCK), value=-math.inf)
    blocks = padded.unflatten(-1, (-1, _BLOCK)).amax(-1).cummax(-1).values
    found = blocks.repeat_interleave(_BLOCK, -1)[..., :slots]
    return found.masked_fill(found == -math.inf, 0.0)


def _float32_orders(rows: Rows) -> Iterator[Tensor]:
    """Outputs in float32 arithmetic; in the orders that lose most only where the output is float32,
    since in a narrower dtype their loss does not show."""
    case = rows.inputs.case
    query, key, value = rows.query.float(), rows.key.float(), rows.value.float()
    scale = _in_float32(case.softmax_scale)
    score = _as_scored(rows, query @ key.mT * scale)
    yield _dense(score, value, torch.exp)
    yield _dense(score * _in_float32(_LOG2_E), value, torch.exp2)
    if case.dtype != "float32":
        return
    yield torch.softmax(score, -1) @ value
    terms = query[:, :, None] * key[:, None]
    score = _as_scored(rows, _one_by_one(terms, -1) * scale)
    weights = torch.exp(score - score.amax(-1, keepdim=True))
    total = _one_by_one(weights, -1).unsqueeze(-1)
    yield _one_by_one(weights[..., None] * value[:, None], -2) / total


def _as_scored(rows: Rows, product: Tensor) -> Tensor:
    """Scores in float32: the exact ones with the errors of these products, float32, and with an
    error of the size that float32 gives to what the score_mods add."""
    exact = rows.query @ rows.key.mT * rows.inputs.case.softmax_scale
    noise = 1.0 - 2.0 * (torch.arange(exact.size(-1)) % 2)
    added = 2.0**-24 * noise * rows.intermediate
    return (rows.score + (product.double() - exact) + added).float()


def _in_float32(number: float) -> float:
    return torch.tensor(number, dtype=torch.float32).item()


def _dense(score: Tensor, value: Tensor, exp: Callable[[Tensor], Tensor]) -> Tensor:
    p = exp(score - score.amax(-1, keepdim=True))
    return p @ value / p.sum(-1, keepdim=True)


def _one_by_one(terms: Tensor, dim: int) -> Tensor:
    """The sum over ``dim`` from the first term to the last, each addition rounded to float32."""
    total = torch.zeros_like(terms.select(dim, 0)).unsqueeze(dim)
    # It adds in the order of the index, where ``sum`` and ``cumsum`` have orders of their own.
    index = torch.zeros(terms.size(dim), dtype=torch.int64)
    return total.index_add_(dim, index, terms).squeeze(dim)
