"""Golden and the rounding budget as statements of a standalone script: dense, in float64.

The formula is that of ``harness.oracle.budget``, written out for one declared precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.case import DecodeCase
from harness.oracle.budget import TENSOR_CORE_ROUNDOFF, UNIT_ROUNDOFF, Precision, tiny
from harness.script.inputs import spoilt
from harness.script.text import added


def golden_lines(case: DecodeCase, scores: list[str]) -> Iterator[str]:
    """``golden`` ``[B, HQ, Q, DV]``; ``scores`` are what ``s`` becomes, in turn."""
    repeated = ".repeat_interleave(HQ // HKV, 1)" if case.heads != case.kv_heads else ""
    yield f"k, v = (x.double(){repeated} for x in (key, value))"
    if spoilt(case):
        yield "k, v = (x.masked_fill(tail, 0) for x in (k, v))"
    yield "s = query.double() @ k.mT * SCALE"
    yield from (f"s = {score}" for score in scores)
    yield "s = s.masked_fill(~allowed, -math.inf)"
    yield "p = s.softmax(-1).nan_to_num(0)  # a row with nothing to attend is 0"
    yield "golden = p @ v"


def budget_lines(
    case: DecodeCase, device: str, precision: Precision, intermediates: list[str]
) -> Iterator[str]:
    """``budget`` ``[B, HQ, Q, DV]``; ``intermediates`` are the absolute values on the way of the
    score_mods."""
    inputs = UNIT_ROUNDOFF[case.dtype]
    u = UNIT_ROUNDOFF[precision.accumulator]
    if device != "cpu":
        u = max(u, TENSOR_CORE_ROUNDOFF)
    operand = UNIT_ROUNDOFF[precision.operand or case.dtype]
    operand = operand if operand > inputs else 0.0
    weight = UNIT_ROUNDOFF[precision.weight or case.dtype]
    weight = weight if precision.weight else max(weight, operand)
    output = precision.output or case.dtype
    score = UNIT_ROUNDOFF[precision.score]
    flushed = tiny(precision.weight or case.dtype), tiny(output)
    yield f"u, tiny = {_power(u)}, {_power(flushed[0])}"
    yield "w = query.double().abs() @ k.abs().mT * SCALE"
    size = "s.abs()"
    if intermediates or score > u:
        yield from added("size", ["s.abs()", *intermediates])
        size = "size"
    yield f"ds = (D + 3) * u * w + 2 * u * (s.amax(-1, keepdim=True) - s + {size})"
    terms = [f"{_power(score)} * size"] if score > u else []
    terms += [f"{_power(2 * operand)} * w"] if operand else []
    if terms:
        yield f"ds = ds + {' + '.join(terms)}  # the precision that it declares"
    yield "ds, n = ds.masked_fill(~allowed, 0), allowed.sum(-1, keepdim=True)"
    rest = f"{weight + operand!r}" if operand else _power(weight)
    yield f"e = torch.expm1(ds + (p * ds).sum(-1, keepdim=True)) + {rest} + (n + 4) * u"
    yield "budget = (p * e + tiny * allowed) @ v.abs()"
    u_out = _power(UNIT_ROUNDOFF[output])
    yield f"budget = budget + {u_out} * golden.abs() + {_power(flushed[1])} * (n > 0)"


def exact_lines(case: DecodeCase, precision: Precision) -> Iterator[str]:
    """See ``harness.verdict.judgement.inexact``."""
    exact = precision.accumulator in ("float32", "float64") and precision.output is None
    if case.probe != "integers" or case.score != "none" or not exact:
        return
    yield "exact = (n & (n - 1)) == 0  # integers over 2^k slots: any order, rounded once"
    yield "budget = torch.where(exact, (golden.to(DTYPE) - golden).abs(), budget)"


def _power(x: float) -> str:
    """``2.0**-24``: every unit roundoff is a power of two."""
    return f"2.0**{int(math.log2(x))}"
