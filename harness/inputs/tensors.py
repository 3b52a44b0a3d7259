"""The tensors of a case: drawn on the CPU, then moved, so that every device sees the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case import LAYOUTS, SCORES, DecodeCase, stated
from harness.case.fields import Spec
from harness.case.visible import tail

# Chosen slots get a chosen score by coordinate 0 of query and key, the lever: the query holds
# sqrt(LEVER / scale) there, so that query * key * scale moves a score by up to hundreds while both
# factors stay well inside float16.
LEVER = 64.0
LOW = -100.0
NEEDLE = 40.0


@dataclass(frozen=True)
class Inputs:
    """The tensors that a path gets.

    ``query`` is ``[B, Hq, Q, D]``, ``input_pos`` int64 ``[B]``. The caches are ``key_cache``
    ``[B, Hkv, S, D]`` and ``value_cache`` ``[B, Hkv, S, Dv]``, views of the buffers as the case's
    layout says. ``parameters`` are what the case's score_mods need, float32 ``[Hq, ...]``, by name:
    ``alibi_slopes`` ``[Hq]``, ``bias_table`` ``[Hq, R]``, ``sink_logits`` ``[Hq]``.
    """

    case: DecodeCase
    query: Tensor
    key_buffer: Tensor
    value_buffer: Tensor
    input_pos: Tensor
    parameters: Mapping[str, Tensor]

    @property
    def key_cache(self) -> Tensor:
        """The keys ``[B, Hkv, S, D]``, a view of ``key_buffer``."""
        return self.case.layout_kind.view(self.key_buffer, self.case.batch)

    @property
    def value_cache(self) -> Tensor:
        """The values ``[B, Hkv, S, Dv]``, a view of ``value_buffer``."""
        return self.case.layout_kind.view(self.value_buffer, self.case.batch)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return own | dict(self.parameters)

    def parameter(self, kind: str) -> Tensor:
        """The tensor ``[Hq, ...]`` that a kind of score_mod needs."""
        parameter = SCORES[kind].parameter
        assert parameter is not None
        return self.parameters[parameter.name]

    def column(self) -> Tensor | None:
        """The logit ``[Hq]`` that takes part in each softmax without a value, or None."""
        kinds = [kind.name for kind in self.case.score_kinds if kind.column]
        return self.parameter(kinds[0]) if kinds else None

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """A copy with every tensor changed."""
        values: dict[str, Any] = {name: change(value) for name, value in self.tensors.items()}
        parameters = {name: values.pop(name) for name in self.parameters}
        return dataclasses.replace(self, **values, parameters=parameters)

    def to(self, device: str | torch.device) -> Inputs:
        """The same bits on another device."""
        return self.with_tensors(lambda tensor: tensor.to(device))

    def clone(self) -> Inputs:
        """A copy that shares no memory with this one."""
        return self.with_tensors(torch.clone)


def store(cache: Tensor, layout: str) -> Tensor:
    """A new buffer that holds ``cache`` in this layout; a shared layout keeps sequence 0 alone."""
    kind = stated(LAYOUTS, layout, "layout")
    buffer = kind.allocate(cache)
    if kind.shared:
        return buffer.copy_(cache[:1])
    kind.view(buffer, cache.size(0)).copy_(cache)
    return buffer


def make_inputs(case: DecodeCase) -> Inputs:
    """The tensors of ``case``, on the CPU.

    The drawn numbers depend on the seed and the shapes alone: a change of positions, tail or layout
    changes none of them, and the dtype only rounds them."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    batch, slots = case.batch, case.cache_len
    query = normal(batch, case.heads, case.q_len, case.head_dim)
    key = normal(batch, case.kv_heads, slots, case.head_dim)
    value = normal(batch, case.kv_heads, slots, case.value_dim)
    parameters = {
        kind.parameter.name: kind.parameter.make(case.heads, case.scores[kind.name], normal)
        for kind in case.score_kinds
        if kind.parameter is not None
    }
    if case.layout_kind.shared:
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
        parameters=parameters,
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

    The slot's score becomes ``base + NEEDLE``. Coordinate 0 of every other visible slot adds
    ``base`` to its score: 0, or ``LOW`` under ``logits=low``.
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
    """The slots whose content is free, bool ``[B, S]``: the tail, less slots that another sequence
    attends where sequences share storage."""
    unused = tail(case)
    return unused.all(dim=0).expand_as(unused) if case.layout_kind.shared else unused


def _fill_tail(case: DecodeCase, key: Tensor, value: Tensor, normal: Callable[..., Tensor]) -> None:
    """Overwrite the free slots with the case's tail: keys first, since draws come in that order."""
    unused = free_slots(case)[:, None, :, None]
    sequences = 1 if case.layout_kind.shared else case.batch
    for cache, fill in ((key, case.tail_kind.key), (value, case.tail_kind.value)):
        if fill == "normal":
            other = normal(sequences, *cache.shape[1:]).to(cache.dtype)
        else:
            number = torch.finfo(cache.dtype).max if fill == "max" else fill
            other = torch.as_tensor(number, dtype=cache.dtype)
        cache.copy_(torch.where(unused, other, cache))
