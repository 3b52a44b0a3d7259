"""Rows of a case, few enough that their arithmetic can be emulated step by step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case.visible import visible_slots
from harness.inputs import Inputs
from harness.oracle.golden import chunks

# Of each case so many products of a query's and a key's (or a weight's and a value's) elements; a
# row that needs more than that alone is left out.
_PRODUCTS = 2**20


@dataclass(frozen=True)
class Rows:
    """Some rows of one sequence: a call of its own, with one sequence and fewer heads and tokens.

    ``inputs`` are those of that call; ``heads`` and ``tokens`` say where its output
    ``[Hkv * G, Q, Dv]`` lies in that of the whole case.
    """

    inputs: Inputs
    sequence: int
    heads: slice
    tokens: slice

    def of(self, output: Tensor) -> Tensor:
        """These rows ``[Hkv, G * Q, Dv]`` of an output ``[B, Hq, Q, Dv]`` of the whole case."""
        part = output[self.sequence, self.heads, self.tokens]
        return part.reshape(self.inputs.case.kv_heads, -1, part.size(-1))

    @functools.cached_property
    def lengths(self) -> Tensor:
        """The number of slots that each row attends, int64 ``[Hkv, G * Q]``."""
        case = self.inputs.case
        count = visible_slots(case, 0).sum(-1)
        return count.expand(case.heads, -1).reshape(case.kv_heads, -1)

    @functools.cached_property
    def slots(self) -> Tensor:
        """The slots that any row attends, int64 ``[n]``."""
        return visible_slots(self.inputs.case, 0).any(0).nonzero().flatten()

    @functools.cached_property
    def query(self) -> Tensor:
        """Float64 ``[Hkv, G * Q, D]``."""
        case = self.inputs.case
        return self.inputs.query[0].double().reshape(case.kv_heads, -1, case.head_dim)

    @functools.cached_property
    def key(self) -> Tensor:
        """Of the slots, float64 ``[Hkv, n, D]``."""
        return self.inputs.key_cache[0][:, self.slots].double()

    @functools.cached_property
    def value(self) -> Tensor:
        """Of the slots, float64 ``[Hkv, n, Dv]``."""
        return self.inputs.value_cache[0][:, self.slots].double()

    @functools.cached_property
    def score(self) -> Tensor:
        """The exact scores ``[Hkv, G * Q, n]``, -inf where a row may not attend."""
        return self.scored()

    @functools.cached_property
    def intermediate(self) -> Tensor:
        """The absolute intermediate values of the score_mods ``[Hkv, G * Q, n]``."""
        return torch.cat([c.intermediate for c in chunks(self.inputs, 0)], -1).flatten(1, 2)

    def scored(
        self,
        *,
        query: Tensor | None = None,
        key: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """The scores, exact but for what replaces query, keys (of the slots) or scale."""
        inputs, case = self.inputs, self.inputs.case
        if not case.scores and (query, key, scale) != (None, None, None):
            # The same without what chunks add for the budget.
            product = (self.query if query is None else query) @ (
                self.key if key is None else key
            ).mT
            product = product * (case.softmax_scale if scale is None else scale)
            return product.masked_fill(self.score == -torch.inf, -torch.inf)
        if query is not None:
            inputs = dataclasses.replace(inputs, query=query.reshape(inputs.query.shape))
        if key is not None:
            cache = inputs.key_cache.double()
            cache[0, :, self.slots] = key
            inputs = dataclasses.replace(inputs, key_buffer=cache)
        if scale is not None:
            inputs = dataclasses.replace(inputs, case=case.replace(scale=scale))
        return torch.cat([chunk.score for chunk in chunks(inputs, 0)], -1).flatten(1, 2)


def some_rows(inputs: Inputs) -> Iterator[Rows]:
    """Rows of each sequence that is not idle, as many as ``_PRODUCTS`` allows: the first heads,
    the last tokens."""
    case = inputs.case
    live = [b for b in range(case.batch) if case.input_pos[b] >= 0]
    group = case.heads // case.kv_heads
    for sequence in live:
        slots = int(visible_slots(case, sequence).any(0).sum())
        each = slots * max(case.head_dim, case.value_dim)
        if not slots or each > _PRODUCTS:
            continue
        rows = max(1, _PRODUCTS // (len(live) * each))
        tokens = max(1, min(case.q_len, rows // group))
        kv_heads = max(1, min(case.kv_heads, rows // (group * tokens)))
        first = case.q_len - tokens
        yield Rows(
            _part(inputs, sequence, kv_heads, first),
            sequence,
            slice(0, kv_heads * group),
            slice(first, case.q_len),
        )


def _part(inputs: Inputs, sequence: int, kv_heads: int, first: int) -> Inputs:
    """The inputs of a call with one sequence, its first KV heads and the tokens from ``first``."""
    case = inputs.case
    heads = kv_heads * (case.heads // case.kv_heads)
    part = dataclasses.replace(
        case,
        input_pos=(case.input_pos[sequence] + first,),
        heads=heads,
        kv_heads=kv_heads,
        q_len=case.q_len - first,
        layout="contiguous",
        value_layout="same",
        query_layout="contiguous",
    )
    return Inputs(
        case=part,
        query=inputs.query[sequence : sequence + 1, :heads, first:],
        key_buffer=inputs.key_cache[sequence : sequence + 1, :kv_heads],
        value_buffer=inputs.value_cache[sequence : sequence + 1, :kv_heads],
        input_pos=inputs.input_pos[sequence : sequence + 1] + first,
        parameters={name: value[:heads] for name, value in inputs.parameters.items()},
    )
