"""The tensors of a case: drawn on the CPU, then moved, so that every device sees the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.fields import Spec
from harness.case.visible import tail
from harness.inputs.layouts import LAYOUTS, store

POISON = 1e4
# Coordinate 0 of query and key is the lever by which chosen slots get a chosen score: the query
# holds sqrt(LEVER / scale) there, so that query * key * scale moves a score by up to hundreds
# while both factors stay well inside float16.
LEVER = 64.0
LOW = -100.0
NEEDLE = 40.0


@dataclass(frozen=True)
class Inputs:
    """What a path gets.

    ``query`` is ``[B, Hq, Q, D]``, ``input_pos`` int64 ``[B]``, ``alibi_slopes`` float32 ``[Hq]``,
    ``bias_table`` float32 ``[Hq, R]`` (None unless the case names them). The caches are
    ``key_cache`` ``[B, Hkv, S, D]`` and ``value_cache`` ``[B, Hkv, S, Dv]``, views of the buffers
    as the case's layout says.
    """

    case: DecodeCase
    query: Tensor
    key_buffer: Tensor
    value_buffer: Tensor
    input_pos: Tensor
    alibi_slopes: Tensor | None
    bias_table: Tensor | None

    @property
    def key_cache(self) -> Tensor:
        """``[B, Hkv, S, D]``."""
        return LAYOUTS[self.case.layout].view(self.key_buffer, self.case.batch)

    @property
    def value_cache(self) -> Tensor:
        """``[B, Hkv, S, Dv]``."""
        return LAYOUTS[self.case.layout].view(self.value_buffer, self.case.batch)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by field name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: str | torch.device) -> Inputs:
        """The same bits on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self.tensors.items()}
        return dataclasses.replace(self, **moved)

    def clone(self) -> Inputs:
        """A copy that shares no memory."""
        copies: dict[str, Any] = {name: value.clone() for name, value in self.tensors.items()}
        return dataclasses.replace(self, **copies)


def make_inputs(case: DecodeCase) -> Inputs:
    """The tensors of ``case``, on the CPU. Values depend on the seed and the shapes alone: a
    change of positions, tail, layout or dtype changes no drawn number (dtype rounds it)."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    batch, slots = case.batch, case.cache_len
    query = normal(batch, case.heads, case.q_len, case.head_dim)
    key = normal(batch, case.kv_heads, slots, case.head_dim)
    value = normal(batch, case.kv_heads, slots, case.value_dim)
    names = dict(case.score_specs)
    table = normal(case.heads, *names["bias"]) if "bias" in names else None
    exponent = torch.arange(1, case.heads + 1) / case.heads
    slopes = 2.0 ** (-8 * exponent) if "alibi" in names else None

    if case.layout == "expanded":
        key, value = key[:1].expand_as(key).clone(), value[:1].expand_as(value).clone()
    _shape_logits(case, query, key)
    if case.probe == "integers":
        value = (value * 4).round().clamp(-8, 8)
    dtype = getattr(torch, case.dtype)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    _fill_tail(case, key, value, normal)
    _plant_needle(case, query, key, value)
    return Inputs(
        case=case,
        query=query,
        key_buffer=store(key, case.layout),
        value_buffer=store(value, case.layout),
        input_pos=torch.tensor(case.input_pos, dtype=torch.int64),
        alibi_slopes=slopes,
        bias_table=table,
    )


def _lever(case: DecodeCase) -> float:
    return (LEVER / case.softmax_scale) ** 0.5


def _shape_logits(case: DecodeCase, query: Tensor, key: Tensor) -> None:
    if case.logits == "x5":
        query *= 5
    elif case.logits == "huge":
        key[:, :, 0] *= 30
    elif case.logits == "equal":
        key.copy_(key[:, :, :1].expand_as(key))
    elif case.logits == "low":
        query[..., 0] = _lever(case)
        key[..., 0] = LOW / (case.softmax_scale * _lever(case))
    if case.probe in ("uniform", "integers"):
        query.zero_()


def _plant_needle(case: DecodeCase, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Give one slot nearly all the weight and a value of its own.

    Every other slot's score loses its part of coordinate 0; the needle's gains ``NEEDLE``.
    """
    name, arguments = Spec.parse_one(case.probe)
    if name != "needle":
        return
    base = LOW if case.logits == "low" else 0.0
    step = 1 / (case.softmax_scale * _lever(case))
    query[..., 0] = _lever(case)
    finite_keys = tail(case).logical_not()[:, None, :].expand(key.shape[:3])
    key[..., 0] = torch.where(finite_keys, base * step, key[..., 0])
    slot = arguments[0]
    key[:, :, slot] = 0
    key[:, :, slot, 0] = (base + NEEDLE) * step
    value[:, :, slot] = torch.arange(1, case.value_dim + 1).remainder(7).add(3).to(value.dtype)


def free_slots(case: DecodeCase) -> Tensor:
    """Bool ``[B, S]``: the tail, except where sequences share storage (``expanded``) and another
    one attends the slot."""
    unused = tail(case)
    return unused.all(dim=0).expand_as(unused) if case.layout == "expanded" else unused


def _fill_tail(case: DecodeCase, key: Tensor, value: Tensor, normal: Callable[..., Tensor]) -> None:
    """Overwrite the slots that nobody attends."""
    unused = free_slots(case)[:, None, :, None]
    fills: tuple[float | Tensor, float | Tensor] = {
        "zeros": (0.0, 0.0),
        "leftovers": (0.0, 0.0),
        "poison": (0.0, POISON),
        "max": (POISON, torch.finfo(value.dtype).max),
        "nan": (float("nan"), float("nan")),
        "inf": (float("inf"), float("inf")),
    }[case.tail]
    if case.tail in ("leftovers", "poison"):
        # Keys like any other, so that every slot would get its share of the weight.
        old = 1 if case.layout == "expanded" else case.batch
        other_key = normal(old, *key.shape[1:])
        fills = (other_key, normal(old, *value.shape[1:]) if case.tail == "leftovers" else POISON)
    for cache, fill in zip((key, value), fills, strict=True):
        cache.copy_(torch.where(unused, torch.as_tensor(fill, dtype=cache.dtype), cache))
