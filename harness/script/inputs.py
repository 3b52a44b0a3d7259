"""Statements of a standalone script that draw a case's tensors, with the bits of
``harness.inputs``."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.case import TAILS, DecodeCase
from harness.case.fields import Spec
from harness.case.scores import Parameter
from harness.case.tails import POISON, Fill
from harness.case.visible import tail, written
from harness.inputs import LEVER, LOW, NEEDLE
from harness.script.text import both, integers

_NORMAL = "randn"


def _text(fill: Fill) -> str:
    """What fills a tail, as an expression of the script."""
    if fill == "normal":
        return _NORMAL
    if fill == "max":
        return "torch.finfo(DTYPE).max"
    return repr(fill) if math.isfinite(fill) else f"math.{fill}"


def parameters(case: DecodeCase) -> Iterator[tuple[Parameter, str]]:
    """The parameters that the case's score_mods need, each with the expression that draws it."""
    for kind in case.score_kinds:
        if kind.parameter is not None:
            yield kind.parameter, kind.parameter.script.format(**case.scores[kind.name])


def drawn(case: DecodeCase, device: str, *, positions: bool = True) -> Iterator[str]:
    """Statements for sizes and constants, ``pos`` where ``positions`` are needed, ``query, key,
    value`` and parameters; the tail is filled later."""
    sizes = [case.batch, case.heads, case.kv_heads, case.q_len]
    sizes += [case.cache_len, case.head_dim, case.value_dim]
    scale = "D**-0.5" if case.scale is None else repr(case.scale)
    yield f"B, HQ, HKV, Q, S, D, DV = {', '.join(map(str, sizes))}"
    yield f'DEVICE, DTYPE, SCALE = "{device}", torch.{case.dtype}, {scale}'
    if positions:
        yield from integers("pos", case.input_pos)
    yield f"g = torch.Generator().manual_seed({case.seed})"
    yield "query = torch.randn(B, HQ, Q, D, generator=g)"
    yield "key, value = (torch.randn(B, HKV, S, n, generator=g) for n in (D, DV))"
    for parameter, expression in parameters(case):
        yield f"{parameter.short} = {expression}"
    if case.layout_kind.shared:
        yield "key, value = (x[:1].expand(B, -1, -1, -1).clone() for x in (key, value))"
    yield from _logits(case)
    if case.dtype != "float32":
        yield "query, key, value = (x.to(DTYPE) for x in (query, key, value))"


def _step(case: DecodeCase) -> float:
    """The number in coordinate 0 of a key that adds 1 to its score, where the query holds the lever
    there."""
    return 1 / (case.softmax_scale * _lever(case))


def _lever(case: DecodeCase) -> float:
    return (LEVER / case.softmax_scale) ** 0.5


def _logits(case: DecodeCase) -> Iterator[str]:
    if case.logits == "x5":
        yield "query *= 5"
    elif case.logits == "huge":
        yield "key[:, :, 0] *= 30"
    elif case.logits == "equal":
        yield "key = key[:, :, :1].expand_as(key).clone()"
    elif case.logits == "low":
        low = LOW / (case.softmax_scale * _lever(case))
        yield f"query[..., 0], key[..., 0] = {_lever(case)!r}, {low!r}"
    if case.probe in ("uniform", "integers"):
        yield "query.zero_()"
    if case.probe == "integers":
        yield "value = (value * 4).round().clamp(-8, 8)"


def filled(case: DecodeCase) -> Iterator[str]:
    """Statements that compute the mask ``tail``, where there is a tail, fill the tail, and plant
    the needle."""
    if tail(case).any():
        yield "tail = ~allowed.any(1).any(1)[:, None, :, None]  # slots that nobody attends"
        if case.layout_kind.shared:
            yield "free = tail.all(0, keepdim=True)"
        yield from _fill(case, _text(case.tail_kind.key), _text(case.tail_kind.value))
        yield from _written(case)
    yield from _needle(case)


def other_tail(case: DecodeCase) -> Iterator[str]:
    """Statements that change the tail to the bits that ``harness.verdict.judging.leaks`` uses."""
    other, keys = TAILS[case.tail_kind.other], case.tail_kind.key
    # Where both tails have normal keys, the keys are the same numbers.
    key = "" if other.key == keys == "normal" else _text(other.key)
    yield from _fill(case, key, _text(other.value))


def _fill(case: DecodeCase, key: str, value: str) -> Iterator[str]:
    # Where sequences share storage, another sequence may attend a slot of this one's tail.
    free, rows = ("free", "[:1]") if case.layout_kind.shared else ("tail", "")
    if key == value != _NORMAL:
        yield f"key, value = (x.masked_fill({free}, {key}) for x in (key, value))"
        return
    for name, fill in (("key", key), ("value", value)):
        if fill == _NORMAL:
            old = f"torch.randn({name}{rows}.shape, generator=g).to(DTYPE)"
            yield f"{name} = torch.where({free}, {old}, {name})"
        elif fill:
            yield f"{name} = {name}.masked_fill({free}, {fill})"


def _written(case: DecodeCase) -> Iterator[str]:
    """Statements that make slots of the tail finite which were written once."""
    if case.tail_kind.finite or not (tail(case) & written(case)).any():
        return
    yield "# What was written once is finite."
    yield "written = torch.arange(S)[:, None] < (pos + Q * (pos >= 0)).view(B, 1, 1, 1)"
    left = "free & written.any(0, keepdim=True)" if case.layout_kind.shared else "tail & written"
    yield from both("key, value", f"x.masked_fill({left}, {POISON})")


def _needle(case: DecodeCase) -> Iterator[str]:
    name, arguments = Spec.parse_one(case.probe)
    if name != "needle":
        return
    base, slot, step = LOW if case.logits == "low" else 0.0, arguments[0], _step(case)
    if case.logits != "low":
        yield f"query[..., 0] = {_lever(case)!r}"
    if not tail(case).any():
        yield f"key[..., 0] = {base * step!r}"
    else:
        yield f"key[..., :1] = torch.where(tail, key[..., :1], {base * step!r})"
    yield f"key[:, :, {slot}] = torch.tensor([{(base + NEEDLE) * step!r}] + [0.0] * (D - 1))"
    yield f"value[:, :, {slot}] = torch.arange(1, DV + 1) % 7 + 3  # gets nearly all the weight"


def spoilt(case: DecodeCase) -> bool:
    """Whether the tail holds NaN or inf, so that the script's oracle must not multiply with it."""
    return not case.tail_kind.finite and bool(tail(case).any())
