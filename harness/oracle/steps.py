"""Steps of the arithmetic that may lose bits without being declared, each emulated alone.

A kernel that rounds at one of these places is off in a direction that can be computed beforehand,
row by row. Which of the directions an output went shows far below what a bound admits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.case.precision import UNIT_ROUNDOFF, Precision
from harness.oracle.emulation import score_forms, weight_forms
from harness.oracle.rounding import cut, narrower, number, rounded
from harness.oracle.rows import Rows

_LOG2_E = math.log2(math.e)
_NARROW = ("bfloat16", "float16")

# A step's name, and the deviation ``[Hkv, G * Q, Dv]``, float64, that it alone gives. Steps that
# one kernel or another does in several forms share a name.
Step = tuple[str, Tensor]


def undeclared(rows: Rows, golden: Tensor, nearest: Tensor, precision: Precision) -> Iterator[Step]:
    """The steps that the declaration does not cover, in all their forms; those that change nothing
    on these rows among them. ``golden`` and ``nearest``, the output of a declared form before its
    last rounding, are float64 ``[Hkv, G * Q, Dv]``."""
    for dtype in _NARROW:
        yield from _scores(rows, golden, precision, dtype)
        yield from _factors(rows, golden, dtype)
    # Operands and weights in less than TF32 are beyond the budget of float32.
    for dtype in ("tf32",) if rows.inputs.case.dtype == "float32" else _NARROW:
        yield from _operands(rows, golden, precision, dtype)
        yield from _weights(rows, golden, precision, dtype)
    yield from _outputs(rows, nearest, precision)


def _scores(rows: Rows, golden: Tensor, precision: Precision, dtype: str) -> Iterator[Step]:
    if UNIT_ROUNDOFF[precision.score] >= UNIT_ROUNDOFF[dtype]:
        return
    for score in score_forms(rows.score, rows.inputs.case, dtype):
        yield f"the scores are rounded to {dtype}", _attend(rows, score) - golden


def _factors(rows: Rows, golden: Tensor, dtype: str) -> Iterator[Step]:
    scale = rows.inputs.case.softmax_scale
    scores = {
        "the scale is": rows.scored(scale=number(scale, dtype)),
        "log2(e) is": rows.score * (number(_LOG2_E, dtype) / _LOG2_E),
        "the scale times log2(e) is": rows.scored(scale=number(scale * _LOG2_E, dtype) / _LOG2_E),
    }
    for what, score in scores.items():
        yield f"{what} rounded to {dtype}", _attend(rows, score) - golden


def _operands(rows: Rows, golden: Tensor, precision: Precision, dtype: str) -> Iterator[Step]:
    case = rows.inputs.case
    if precision.operand is not None and not narrower(dtype, precision.operand):
        return
    scale = case.softmax_scale
    for factor in (scale, scale * _LOG2_E):
        query = rounded(rows.query * factor, dtype) / factor
        output = _attend(rows, rows.scored(query=query))
        yield f"the scaled query is rounded to {dtype}", output - golden
    if narrower(dtype, case.dtype):
        score = rows.scored(query=rounded(rows.query, dtype), key=rounded(rows.key, dtype))
        yield f"query and key are rounded to {dtype}", _attend(rows, score) - golden
        value = torch.softmax(rows.score, -1) @ rounded(rows.value, dtype)
        yield f"the values are rounded to {dtype}", value - golden


def _weights(rows: Rows, golden: Tensor, precision: Precision, dtype: str) -> Iterator[Step]:
    case = rows.inputs.case
    operand = precision.operand or case.dtype
    weight = precision.weight or (operand if narrower(operand, case.dtype) else case.dtype)
    if UNIT_ROUNDOFF[weight] >= UNIT_ROUNDOFF[dtype]:
        return
    for output in weight_forms(rows.score, rows.value, dtype):
        yield f"the weights are rounded to {dtype}", output - golden


def _outputs(rows: Rows, output: Tensor, precision: Precision) -> Iterator[Step]:
    dtype = rows.inputs.case.dtype
    once = rounded(output, dtype)
    yield "the output is cut off, not rounded", cut(output, dtype) - once
    if precision.output is None:
        for first in (name for name in _NARROW if name != dtype):
            twice = rounded(rounded(output, first), dtype)
            yield f"the output is rounded to {first} first", twice - once


def _attend(rows: Rows, score: Tensor) -> Tensor:
    return torch.softmax(score, -1) @ rows.value
