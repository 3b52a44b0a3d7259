"""Statements of a standalone script that compute golden and the budget, in float64.

The formula of the budget is that of ``harness.oracle.budget``, for one declared precision. Keys and
values of a short context are converted at once, which reads best; those of a long one head by head,
so that a script needs no more memory than the inputs and a gigabyte.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.case import DecodeCase
from harness.case.precision import UNIT_ROUNDOFF, Precision
from harness.oracle.budget import LARGEST_CODE, SCALINGS, TENSOR_CORE_ROUNDOFF, tiny
from harness.script.inputs import spoilt
from harness.script.text import added

# Of keys or values in float64, repeated for all query heads; more are converted head by head.
ELEMENTS = 2**24
_BY_HEAD = """
def product(x, y):
    # x @ y in float64, with one KV head of y at a time.
    pairs = zip(x.chunk(HKV, 1), y.split(1, 1), strict=True)
    return torch.cat([a @ b.double() for a, b in pairs], 1)
"""


def column(case: DecodeCase) -> str | None:
    """The script's name for the logit ``[HQ]`` that takes part in each softmax without a value, or
    None."""
    names = [kind.parameter.short for kind in case.score_kinds if kind.column and kind.parameter]
    return names[0] if names else None


def score_lines(case: DecodeCase) -> list[str]:
    """Expressions for the score ``s`` after each score_mod, in their order."""
    return [
        kind.script.format(**case.scores[kind.name]) for kind in case.score_kinds if not kind.column
    ]


def intermediates(case: DecodeCase) -> list[str]:
    """Expressions for the absolute intermediate values of the score_mods."""
    arguments = case.scores
    constant = sum(kind.constant(arguments[kind.name]) for kind in case.score_kinds)
    terms = [kind.size.format(**arguments[kind.name]) for kind in case.score_kinds if kind.size]
    return [str(constant), *terms] if constant else terms


def product_lines(case: DecodeCase) -> Iterator[str]:
    """Statements that define the function which the others use where the context is long."""
    if _long(case):
        yield from ("", "", *_BY_HEAD.strip().splitlines(), "", "")


def golden_lines(case: DecodeCase, scores: list[str]) -> Iterator[str]:
    """Statements that compute ``golden`` ``[B, HQ, Q, DV]``; ``scores`` are expressions for ``s``
    after each step."""
    if _long(case):
        yield "k, v = key, value"
    else:
        repeated = ".repeat_interleave(HQ // HKV, 1)" if case.heads != case.kv_heads else ""
        yield f"k, v = (x.double(){repeated} for x in (key, value))"
    if spoilt(case):
        yield "k, v = (x.masked_fill(tail, 0) for x in (k, v))"
    yield f"s = {_product('query.double()', 'k.mT', case)} * SCALE"
    yield from (f"s = {score}" for score in scores)
    yield "s = s.masked_fill(~allowed, -math.inf)"
    if name := column(case):
        yield f"logit = {name}.double().view(HQ, 1, 1).expand(B, HQ, Q, 1)"
        yield "both = torch.cat([s, logit], -1)  # one logit more, which has no value"
        yield "p, rest = both.softmax(-1).split([S, 1], -1)"
    else:
        yield "p = s.softmax(-1).nan_to_num(0)  # a row with nothing to attend is 0"
    yield f"golden = {_product('p', 'v', case)}"


def budget_lines(
    case: DecodeCase, device: str, precision: Precision, intermediates: list[str]
) -> Iterator[str]:
    """Statements that compute ``budget`` ``[B, HQ, Q, DV]``; ``intermediates`` are expressions for
    the absolute intermediate values of the score_mods."""
    inputs = UNIT_ROUNDOFF[case.dtype]
    u = UNIT_ROUNDOFF[precision.accumulator]
    if device != "cpu":
        u = max(u, TENSOR_CORE_ROUNDOFF)
    operand = UNIT_ROUNDOFF[precision.operand or case.dtype]
    scaled = operand if precision.stores_operands else 0.0
    stored = case.quantised is not None and precision.operand is not None
    operand = operand if stored or operand > inputs else 0.0
    weight = UNIT_ROUNDOFF[precision.weight or case.dtype]
    weight = weight if precision.weight else max(weight, operand)
    output = precision.output or case.dtype
    score = UNIT_ROUNDOFF[precision.score]
    largest = LARGEST_CODE if case.quantised else 1
    flushed = largest * tiny(precision.weight or case.dtype), tiny(output)
    scaling = SCALINGS if case.quantised else 0
    zeros = case.quantised is not None and case.quantised.zero_point
    u_out = _power(UNIT_ROUNDOFF[output])
    with_column = column(case) is not None
    yield f"u, tiny = {_power(u)}, {_power(flushed[0])}"
    yield f"w = {_product('query.double().abs()', 'k.abs().mT', case)} * SCALE"
    if zeros:
        yield "w = w + query.double().abs().sum(-1, keepdim=True) * k_more.mT * SCALE"
    size = "s.abs()"
    if intermediates or score > u:
        yield from added("size", ["s.abs()", *intermediates])
        size = "size"
    highest = "both" if with_column else "s"
    gap = f"{highest}.amax(-1, keepdim=True) - s + {size}"
    yield f"ds = (D + {3 + scaling}) * u * w + 2 * u * ({gap})"
    terms = [f"{_power(score)} * size"] if score > u else []
    terms += [f"{2 * operand + scaled!r} * w"] if operand or scaled else []
    if terms:
        yield f"ds = ds + {' + '.join(terms)}  # the precision that it declares"
    yield "ds, n = ds.masked_fill(~allowed, 0), allowed.sum(-1, keepdim=True)"
    rest = f"{weight + operand!r}" if operand else _power(weight)
    mean = "(p * ds).sum(-1, keepdim=True)"
    if with_column:
        yield from _column_lines(u_out, _power(score) if score > u else "")
        mean, rest = "mean", f"{rest} + more"
    yield f"e = torch.expm1(ds + {mean}) + {rest} + (n + {4 + scaling}) * u"
    yield f"budget = {_product('p * e + tiny * allowed', 'v.abs()', case)}"
    if zeros:
        yield "budget = budget + (p * e + tiny * allowed) @ v_more"
    yield f"budget = budget + {u_out} * golden.abs() + {_power(flushed[1])} * (n > 0)"


def _column_lines(u_out: str, u_score: str) -> Iterator[str]:
    """Statements for what a logit without a value adds to the budget, with the case that it is
    applied to the finished output."""
    narrow = f" + {u_score} * logit.abs()" if u_score else ""
    yield "dl = 2 * u * (both.amax(-1, keepdim=True) - logit + logit.abs())" + narrow
    yield "n, mean = n + (n > 0), (p * ds).sum(-1, keepdim=True) + rest * dl"
    yield "lse = both.logsumexp(-1, keepdim=True).abs()"
    yield "grown = (p * torch.expm1(ds)).sum(-1, keepdim=True) + rest * torch.expm1(dl)"
    yield f"more = torch.log1p(grown) + {u_out} + u * (n + 16 + 6 * lse + 2 * logit.abs())"


def _long(case: DecodeCase) -> bool:
    dims = max(case.head_dim, case.value_dim)
    return case.batch * case.heads * case.cache_len * dims > ELEMENTS


def _product(x: str, y: str, case: DecodeCase) -> str:
    """An expression for x @ y."""
    if _long(case):
        return f"product({x}, {y})"
    return f"({x}) @ {y}" if " " in x else f"{x} @ {y}"


def _power(x: float) -> str:
    """A power of two, which every unit roundoff is, as an expression: ``2.0**-24``."""
    return f"2.0**{int(math.log2(x))}"
