"""The rule of the fixed path by its definition, and inputs whose attention is an exact mean."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def visible(
    input_pos: list[int],
    q_len: int,
    cache_len: int,
    window: int | None = None,
    sinks: int = 0,
    prefix: int | list[int] = 0,
) -> Tensor:
    """Bool [B, Q, S], by the definition, one slot at a time."""
    prefixes = prefix if isinstance(prefix, list) else [prefix] * len(input_pos)
    out = torch.zeros(len(input_pos), q_len, cache_len, dtype=torch.bool)
    for b, i, j in itertools.product(range(len(input_pos)), range(q_len), range(cache_len)):
        t = input_pos[b] + i
        causal = j <= t and (window is None or j > t - window or j < sinks)
        out[b, i, j] = input_pos[b] >= 0 and (causal or j < prefixes[b])
    return out


def integer_inputs(
    batch: int, heads: int, kv_heads: int, q_len: int, cache_len: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Zero queries, so every visible slot weighs the same, and small integer values."""
    g = torch.Generator().manual_seed(0)
    key = torch.randint(-3, 4, (batch, kv_heads, cache_len, 16), generator=g)
    value = torch.randint(0, 8, (batch, kv_heads, cache_len, 16), generator=g)
    query = torch.zeros(batch, heads, q_len, 16, dtype=dtype)
    return query, key.to(dtype), value.to(dtype)
