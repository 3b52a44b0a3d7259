"""Functions that are wrong at some positions, in some layouts, or for some lengths of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    filled,
    from_scores,
    modified,
    products,
    scores,
    seen,
    split,
    tiles,
    times,
)
from tests.functions.shown import Once, Wider


@faulty("WRONG", Once("S=1300,pos=1024,D=16,probe=needle:1024"), supports="gqa chunk")
def position_at_a_power_of_two(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Kernels exist for lengths up to 1024, 2048, 4096 and so on, chosen by the position and not by
    the length: at position 1024 the last slot is outside."""
    n = filled(k, p, q.size(2))
    bucket = max(1024, 1 << max(0, (n - 2)).bit_length())
    return split(q, k, v, p, [(0, min(n, bucket))])


@faulty("WRONG", Once("S=2100,pos=2048,D=16,probe=needle:2048"), supports="gqa ragged")
def newest_slot_at_2048s(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Blocks of 2048 slots, counted as ``position / 2048`` rounded up: a position on an edge has
    none for its own slot."""
    t = torch.where((p % 2048 == 0) & (p > 0), p - 1, p)
    return dense(q, k, v, t)


@faulty("WRONG", Once("S=1300,pos=100/1290,D=16"), supports="ragged gqa chunk")
def plan_of_the_first_sequence(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The length of a split is planned for the first sequence: longer ones lose what is beyond
    eight splits of at least 128 slots."""
    size = max(128, -(-(int(p[0]) + q.size(2)) // 8))
    n = filled(k, p, q.size(2))
    return split(q, k, v, p, list(tiles(n, size))[:8])


@faulty("LEAK WRONG NONFINITE", Once("S=900,pos=850/800,D=16,tail=poison"), supports="ragged gqa")
def longest_length_for_all(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A tile of 256 slots is masked by the longest sequence's length, except for the first two."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    edge = 512
    if n > edge and len(p) > 1:
        live = (p >= edge).view(-1, 1, 1, 1, 1)
        whole = scores(q, k[:, :, edge:n], torch.full_like(p, n - 1), start=edge)
        s[..., edge:] = torch.where(live, whole, s[..., edge:])
    return from_scores(s, v[:, :, :n], q)


@faulty("WRONG", Once("S=300,pos=100,H=2,D=16,Q=90"), supports="chunk gqa")
def second_tile_of_queries(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Query tokens come in tiles of 64, and each tile starts again at input_pos."""
    outputs = [dense(q[:, :, a:b], k, v, p) for a, b in tiles(q.size(2), 64)]
    return torch.cat(outputs, 2)


@faulty("WRONG", Once("S=700,pos=560,D=16,Q=100"), supports="chunk ragged gqa")
def chunk_behind_a_long_context(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A chunk behind more than 512 slots of context attends to itself in blocks of 32 tokens: what
    lies between the context and its own block is left out."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    token, slot = torch.arange(q.size(2)), torch.arange(n)
    start = p[:, None, None] + (token // 32 * 32)[:, None]
    between = (slot >= p[:, None, None]) & (slot < start) & (p[:, None, None] > 512)
    s = s.masked_fill(between[:, None, None], -torch.inf)
    return from_scores(s, v[:, :, :n], q)


@faulty("WRONG LEAK", Once("S=1500,pos=1400,D=16,mask=window:600"), supports="window ragged")
def first_tile_of_a_window(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """A window of more than 512 slots starts at a tile of 128, and its first tile is not masked."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p, window=window)
    if window is not None and window > 512:
        start = (p - window + 1).clamp(min=0) // 128 * 128
        allowed = seen(p, q.size(2), torch.arange(n))
        wide = allowed & (torch.arange(n) >= start.view(-1, 1, 1, 1, 1))
        s = products(q, k[:, :, :n]).masked_fill(~wide, -torch.inf)
    return from_scores(s, v[:, :, :n], q)


@faulty("WRONG", Once("S=1200,pos=1100,D=16,mask=sinks:256:4"), supports="window sinks")
def sinks_of_a_far_window(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None, sinks: int = 0
) -> Tensor:
    """Where more than 768 slots lie between the sinks and the window, the block of the sinks is
    among those that are skipped."""
    far = window is not None and int(p.max()) - window > 768
    return dense(q, k, v, p, window=window, sinks=0 if far else sinks)


@faulty("WRONG", Once("S=1300,pos=1200,D=16,mask=dilated:1024:3"), supports="window dilated")
def dilation_by_tiles(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None, dilation: int = 1
) -> Tensor:
    """Distances are taken modulo the dilation within a tile of 512: right while the dilation
    divides 512, or the query is in the first tile."""
    n = filled(k, p, q.size(2))
    slot = torch.arange(n)
    t = p[:, None] + torch.arange(q.size(2))
    distance = t[:, :, None] - slot
    steps = torch.where(t[:, :, None] >= 512, distance % 512, distance) % dilation == 0
    allowed = seen(p, q.size(2), slot, window=window) & steps[:, None, None]
    s = products(q, k[:, :, :n]).masked_fill(~allowed, -torch.inf)
    return from_scores(s, v[:, :, :n], q)


@faulty("WRONG", Once("S=700,pos=600,H=4,D=16,score=alibi"), supports="alibi gqa")
def alibi_of_the_second_split(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """The slot from which ALiBi takes its distance is counted from the start of a split of 512."""
    n = filled(k, p, q.size(2))
    slot = torch.arange(n)
    s = modified(products(q, k[:, :, :n]), p, slot % 512, None, alibi_slopes)
    return from_scores(s.masked_fill(~seen(p, q.size(2), slot), -torch.inf), v[:, :, :n], q)


def _memory_as(t: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The memory behind ``t``, read with other strides as far as it goes."""
    elements = t.untyped_storage().nbytes() // t.element_size()
    ends = [(size - 1) * stride for size, stride in zip(t.shape, strides, strict=True)]
    if t.storage_offset() + sum(ends) < elements:
        return torch.as_strided(t, t.shape, strides)
    index = torch.full((), t.storage_offset())
    for size, stride in zip(t.shape, strides, strict=True):
        index = index[..., None] + torch.arange(size) * stride
    return torch.as_strided(t, (elements,), (1,), 0)[index.clamp(max=elements - 1)]


def _packed(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


@faulty(
    "WRONG NONFINITE LEAK", Wider("S=40,pos=30,H=4,B=2,D=16", "query"), supports="strided gqa chunk"
)
def query_taken_as_contiguous(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The query is read as if it were contiguous; the caches' strides are taken into account."""
    return dense(_memory_as(q, _packed(q.shape)), k, v, p)


@faulty(
    "WRONG NONFINITE LEAK", Wider("S=40,pos=30,H=4,B=2,D=16", "value_cache"), supports="strided gqa"
)
def value_read_with_strides_of_key(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The strides of the key cache are passed for both caches."""
    return dense(q, k, _memory_as(v, k.stride()), p)


@faulty(
    "WRONG NONFINITE LEAK", Once("S=40,pos=30,H=4,B=2,D=16,layout=bshd"), supports="strided gqa"
)
def head_stride_times_slots(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The stride of a sequence is taken to be heads times the stride of a head."""
    strides = (k.size(1) * k.stride(1), *k.stride()[1:])
    return dense(q, _memory_as(k, strides), v, p)


@faulty("LEAK WRONG", Once("S=1400,pos=1300/-1/5,D=16,tail=poison"), supports="ragged idle")
def idle_beside_long(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """An idle sequence beside one of more than 1024 slots gets the mean of its first split."""
    n = filled(k, p, q.size(2))
    output = dense(q, k, v, p)
    if n > 1024:
        ones = torch.ones(*q.shape[:1], k.size(1), q.size(1) // k.size(1), q.size(2), 512) / 512
        mean = times(ones, v[:, :, :512].float()).flatten(1, 2).to(q.dtype)
        output = torch.where((p < 0).view(-1, 1, 1, 1), mean, output)
    return output


@faulty(
    "LEAK WRONG NONFINITE",
    Once("S=2000,pos=1001,D=16,dtype=bf16,tail=poison"),
    supports="gqa ragged",
)
def mask_in_the_querys_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Slots and positions are compared as numbers of the query's dtype, as arange gives them where
    it is asked for that: beyond 256 bfloat16 rounds them."""
    s = products(q, k)
    allowed = torch.arange(k.size(2)).to(q.dtype) <= p.to(q.dtype)[:, None]
    return from_scores(s.masked_fill(~allowed[:, None, None, None], -torch.inf), v, q)
