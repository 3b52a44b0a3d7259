"""The steps of a decode kernel in float32, from which the functions here are put together.

Scores are ``[B, Hkv, G, Q, S]``, the group of query heads of one KV head apart. ``Partial`` is what
one tile or split leaves: its largest score, the sum of its exponentials, and their sum over the
values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Partial = tuple[Tensor, Tensor, Tensor]


def filled(key_cache: Tensor, input_pos: Tensor, q_len: int, prefix: int = 0) -> int:
    """How many leading slots some query attends; at least 1."""
    last = int(input_pos.max()) + q_len
    return max(1, min(key_cache.size(2), max(last, prefix)))


def tiles(slots: int, size: int) -> Iterator[tuple[int, int]]:
    """Borders of tiles of ``size`` slots; the last may be shorter."""
    for start in range(0, slots, size):
        yield start, min(start + size, slots)


def even(slots: int, count: int) -> Iterator[tuple[int, int]]:
    """Borders of ``count`` splits whose lengths differ by one at most; empty ones left out."""
    edges = [slots * i // count for i in range(count + 1)]
    return ((a, b) for a, b in itertools.pairwise(edges) if a < b)


def times(weights: Tensor, cache: Tensor) -> Tensor:
    """``weights`` ``[B, Hkv, G, Q, S]`` times ``cache`` ``[B, Hkv, S, Dv]``."""
    return (weights.flatten(2, 3) @ cache).unflatten(2, weights.shape[2:4])


def grouped(query: Tensor, key_cache: Tensor) -> Tensor:
    """The query as float32 ``[B, Hkv, G, Q, D]``."""
    return query.float().unflatten(1, (key_cache.size(1), -1))


def products(query: Tensor, key_cache: Tensor, scale: float | None = None) -> Tensor:
    """Scaled products of all queries with these keys."""
    q = grouped(query, key_cache) * (query.size(-1) ** -0.5 if scale is None else scale)
    return times(q, key_cache.float().mT)


def seen(
    input_pos: Tensor,
    q_len: int,
    slot: Tensor,
    *,
    window: int | None = None,
    sinks: int = 0,
    prefix: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Which of the slots ``slot`` each query may attend, ``[B, 1, 1, Q, S]``."""
    t = input_pos[:, None] + torch.arange(q_len)
    distance = t[:, :, None] - slot
    allowed = (distance >= 0) & (distance % dilation == 0)
    if window is not None:
        allowed &= (distance < window) | (slot < sinks)
    allowed = (allowed | (slot < prefix)) & (input_pos >= 0)[:, None, None]
    return allowed[:, None, None]


def modified(
    s: Tensor,
    input_pos: Tensor,
    slot: Tensor,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Scores after softcap and ALiBi."""
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if alibi_slopes is not None:
        t = input_pos[:, None] + torch.arange(s.size(3))
        slopes = alibi_slopes.unflatten(0, (s.size(1), -1))[..., None, None]
        s = s + slopes * (slot - t[:, :, None])[:, None, None]
    return s


def scores(
    query: Tensor,
    key_cache: Tensor,
    input_pos: Tensor,
    *,
    start: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    **mask: Any,
) -> Tensor:
    """Scores of the slots from ``start`` on, whose keys are given; -inf where a slot is hidden."""
    slot = torch.arange(start, start + key_cache.size(2))
    s = modified(products(query, key_cache, scale), input_pos, slot, softcap, alibi_slopes)
    return s.masked_fill(~seen(input_pos, query.size(2), slot, **mask), -math.inf)


def shifted(highest: Tensor) -> Tensor:
    """What to subtract before exp: 0 in rows without a slot, where -inf - -inf is NaN."""
    return highest.masked_fill(highest == -math.inf, 0.0)


def partial(s: Tensor, value_cache: Tensor) -> Partial:
    """What these scores and values leave."""
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - shifted(highest))
    return highest, p.sum(-1, keepdim=True), times(p, value_cache.float())


def merged(parts: Iterable[Partial]) -> Partial:
    """All parts as one."""
    parts = list(parts)
    highest = torch.stack([part[0] for part in parts]).amax(0)
    total, weighted = torch.zeros_like(parts[0][1]), torch.zeros_like(parts[0][2])
    for part in parts:
        factor = torch.exp(part[0] - shifted(highest))
        total += factor * part[1]
        weighted += factor * part[2]
    return highest, total, weighted


def finished(part: Partial, query: Tensor, sink_logits: Tensor | None = None) -> Tensor:
    """The output ``[B, Hq, Q, Dv]`` of query's dtype; a row without a slot is 0."""
    highest, total, weighted = part
    if sink_logits is not None:
        logit = sink_logits.unflatten(0, (total.size(1), -1))[..., None, None]
        total = total + torch.where(total > 0, torch.exp(logit - shifted(highest)), 0.0)
    output = weighted / total.masked_fill(total == 0, 1.0)
    return output.flatten(1, 2).to(query.dtype)


def split(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    borders: Iterable[tuple[int, int]],
    *,
    sink_logits: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Each pair of borders by itself, then merged."""
    parts = [
        partial(
            scores(query, key_cache[:, :, a:b], input_pos, start=a, **options),
            value_cache[:, :, a:b],
        )
        for a, b in borders
    ]
    return finished(merged(parts), query, sink_logits)


def dense(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, input_pos: Tensor, **options: Any
) -> Tensor:
    """The whole contract but for tails that are not finite; all filled slots at once."""
    n = filled(key_cache, input_pos, query.size(2), options.get("prefix", 0))
    return split(query, key_cache, value_cache, input_pos, [(0, n)], **options)


def from_scores(s: Tensor, value_cache: Tensor, query: Tensor) -> Tensor:
    """The output of scores over all slots of ``value_cache``."""
    return finished(partial(s, value_cache), query)


def slots_read(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    index: Tensor,
    **options: Any,
) -> Tensor:
    """As ``dense``, where the keys and values of slot ``j`` are read at slot ``index[j]``."""
    keys, values = key_cache[:, :, index], value_cache[:, :, index]
    return split(query, keys, values, input_pos, [(0, len(index))], **options)
