"""The tensors of a case, and how they lie in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case import LAYOUTS, SCORES, DecodeCase, stated
from harness.case.layouts import projected
from harness.inputs.checksum import checksum


@dataclass
class TailDraws:
    """Generators at the first number that the tail's keys take where they are normal numbers
    (``keys``) and, once such keys were drawn, at the first one after them."""

    keys: torch.Generator
    after_keys: torch.Generator | None = None


@dataclass(frozen=True)
class Inputs:
    """The tensors that a path gets.

    ``query`` is ``[B, Hq, Q, D]``, ``input_pos`` int64 ``[B]``. The caches are ``key_cache``
    ``[B, Hkv, S, D]`` and ``value_cache`` ``[B, Hkv, S, Dv]``, views of the buffers as the case's
    layout says. ``parameters`` are what the case's score_mods need, float32 ``[Hq, ...]``, by name:
    ``alibi_slopes`` ``[Hq]``, ``bias_table`` ``[Hq, R]``, ``sink_logits`` ``[Hq]``. ``tail_draws``
    are those of inputs that were drawn, None where they come from elsewhere. Where caches are
    quantised, ``stored`` has what a function gets of them, by name: codes, scales, zero points; the
    caches here then are the numbers that they stand for, float32.
    """

    case: DecodeCase
    query: Tensor
    key_buffer: Tensor
    value_buffer: Tensor
    input_pos: Tensor
    parameters: Mapping[str, Tensor]
    tail_draws: TailDraws | None = None
    stored: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def key_cache(self) -> Tensor:
        """The keys ``[B, Hkv, S, D]``, a view of ``key_buffer``."""
        return self.case.layout_kind.view(self.key_buffer, self.case.batch)

    @property
    def value_cache(self) -> Tensor:
        """The values ``[B, Hkv, S, Dv]``, a view of ``value_buffer``."""
        return self.case.value_layout_kind.view(self.value_buffer, self.case.batch)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        return own | dict(self.parameters) | dict(self.stored)

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
        parameters, stored = (
            {name: values.pop(name) for name in of} for of in (self.parameters, self.stored)
        )
        if self.case.query_layout == "projected":
            values["query"] = projected(values["query"], self.case.kv_heads)
        return dataclasses.replace(self, **values, parameters=parameters, stored=stored)

    def checksums(self) -> dict[str, int]:
        """A checksum of each cache's buffer (on the CPU), by name."""
        buffers = {"key_buffer": self.key_buffer, "value_buffer": self.value_buffer}
        return {name: checksum(buffer) for name, buffer in buffers.items()}

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
