"""Functions that are wrong beyond a number of slots, splits, tiles or elements."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    even,
    filled,
    finished,
    from_scores,
    merged,
    partial,
    products,
    scores,
    shifted,
    slots_read,
    split,
    tiles,
    times,
)
from tests.functions.shown import Once

COMMON = "gqa ragged chunk"
# What a sum over missing, doubled or foreign slots may be called.
NUMBERS = "WRONG LEAK"


@faulty("WRONG", Once("S=3000,pos=2900,D=16"), supports=COMMON)
def third_tile_not_rescaled(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Online softmax over tiles of 1024 slots rescales what it has summed at the second tile, and
    forgets it at later ones."""
    parts = [
        partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b])
        for a, b in tiles(filled(k, p, q.size(2)), 1024)
    ]
    highest, total, weighted = merged(parts[:2])
    for part in parts[2:]:
        new = torch.maximum(highest, part[0])
        factor = torch.exp(part[0] - shifted(new))
        total, weighted = total + factor * part[1], weighted + factor * part[2]
        highest = new
    return finished((highest, total, weighted), q)


@faulty("WRONG", Once("S=2304,pos=2303,D=16"), supports=COMMON)
def ninth_split_dropped(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The kernel that merges splits of 256 slots has room for eight."""
    return split(q, k, v, p, list(tiles(filled(k, p, q.size(2)), 256))[:8])


@faulty("WRONG", Once("S=9000,pos=8999,D=16"), supports=COMMON)
def merge_of_64_splits(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The merge takes one split of 128 slots per lane of two warps, and drops those beyond."""
    return split(q, k, v, p, list(tiles(filled(k, p, q.size(2)), 128))[:64])


@faulty("WRONG", Once("S=1400,pos=1300,D=16"), supports=COMMON)
def remainder_split_dropped(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """From 1024 slots on there are ``slots // 512`` splits, so that the rest is in none."""
    n = filled(k, p, q.size(2))
    return split(q, k, v, p, tiles(n // 512 * 512 if n >= 1024 else n, 512))


@faulty("WRONG", Once("S=700,pos=650,D=128"), supports=COMMON)
def scores_of_wide_heads(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """With D of 128 and more there is shared memory left for the scores of 512 slots."""
    n = filled(k, p, q.size(2))
    return split(q, k, v, p, [(0, min(n, 512) if q.size(3) >= 128 else n)])


@faulty("WRONG", Once("S=1200,pos=1100,D=64"), supports=COMMON)
def element_offset_16_bit(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The offset of an element from the start of its head is kept in 16 bits."""
    n, width = filled(k, p, q.size(2)), q.size(3)
    index = (torch.arange(n) * width) % 2**16 // width
    return slots_read(q, k, v, p, index)


@faulty("WRONG", Once("S=5000,pos=4900,H=8,D=128"), supports=COMMON)
def head_offset_22_bit(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The offset of a head in its sequence is packed in a descriptor's 22 bits."""
    size = k.size(2) * k.size(3)
    head = (torch.arange(k.size(1)) * size) % 2**22 // size
    return dense(q, k[:, head], v, p)


@faulty("WRONG", Once("S=20000,pos=19999,H=16,Hkv=8,D=64"), supports=COMMON)
def binding_of_2_23_elements(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The value cache is bound with at most 2^23 elements of a sequence, as a device allows, and
    heads beyond are clamped to the last one inside."""
    size = k.size(2) * k.size(3)
    head = torch.arange(k.size(1)).clamp(max=max(0, 2**23 // size - 1))
    return dense(q, k, v[:, head], p)


@faulty("WRONG", Once("S=300,pos=290,D=16"), supports=COMMON)
def vector_tail_of_16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Beyond 256 slots a vectorised loop takes 16 at a time, and leaves out what remains."""
    n = filled(k, p, q.size(2))
    return split(q, k, v, p, [(0, n - n % 16 if n > 256 else n)])


@faulty("WRONG", Once("S=1101,pos=1100,D=16,dtype=fp16"), supports=COMMON)
def vector_tail_of_8_in_half(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """In a narrow dtype, over more than 1000 slots, p @ v is done in vectors of 8 slots, and the
    last few are only in the denominator."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    highest, total, _ = partial(s, v[:, :, :n])
    if q.dtype != torch.float32 and n > 1000:
        n -= n % 8
    e = torch.exp(s[..., :n] - shifted(highest))
    return finished((highest, total, times(e, v[:, :, :n].float())), q)


@faulty("WRONG", Once("S=4096,pos=4095,D=16"), supports=COMMON)
def slot_4096(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A buffer of 4096 scores whose last place holds the largest one: slot 4095 and later ones
    are lost."""
    return split(q, k, v, p, [(0, min(filled(k, p, q.size(2)), 4095))])


@faulty(NUMBERS, Once("S=2200,pos=2199,D=16"), supports=COMMON)
def page_number_8_bit(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Pages of 16 slots, whose numbers are signed bytes."""
    n = filled(k, p, q.size(2))
    slot = torch.arange(n)
    page = (slot // 16).to(torch.int8).long()
    return slots_read(q, k, v, p, (page * 16 + slot % 16) % k.size(2))


@faulty("WRONG", Once("S=2600,pos=2599,D=16"), supports=COMMON)
def maxima_of_40_tiles(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The first pass keeps a maximum for each of at most 40 tiles of 64 slots; for later tiles
    there is 0."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    highest = shifted(s[..., : 40 * 64].amax(-1, keepdim=True))
    e = torch.exp(s - torch.where(torch.arange(n) < 40 * 64, highest, 0.0))
    weighted = times(e, v[:, :, :n].float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@faulty("LEAK WRONG", Once("S=2000,pos=1600,D=16,tail=poison"), supports="gqa")
def later_tiles_are_full(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Tiles of 512 slots from the third on are taken to be full, and not masked."""
    n = filled(k, p, q.size(2))
    stop = -(-n // 512) * 512 if n > 1024 else n
    s = scores(q, k[:, :, :stop], p)
    if n > 1024:
        last = (n - 1) // 512 * 512
        s[..., last:stop] = products(q, k[:, :, last:stop])
    return from_scores(s, v[:, :, :stop], q)


@faulty("WRONG", Once("S=1500,pos=1499,D=16"), supports=COMMON)
def uneven_splits_overlap(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Above 1024 slots there are 7 splits, each as long as the longest: where 7 does not divide the
    length, neighbours share a slot."""
    n = filled(k, p, q.size(2))
    if n <= 1024:
        return split(q, k, v, p, [(0, n)])
    size = -(-n // 7)
    return split(q, k, v, p, [(a, min(a + size, n)) for a, _ in even(n, 7)])


@faulty("WRONG", Once("S=1300,pos=1299,H=2,D=256"), supports=COMMON)
def second_half_of_wide_values(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Values of 256 dims are summed in two halves; beyond 768 slots the second half starts at the
    second stage of the pipeline, 64 slots late."""
    output = dense(q, k, v, p)
    n = filled(k, p, q.size(2))
    if v.size(3) == 256 and n > 768:
        s = scores(q, k[:, :, :n], p)
        highest, total, _ = partial(s, v[:, :, :n])
        e = torch.exp(s - shifted(highest))[..., 64:]
        late = times(e, v[:, :, 64:n].float())
        output[..., 128:] = finished((highest, total, late), q)[..., 128:]
    return output


@faulty("WRONG", Once("S=4500,pos=4400,H=2,D=64,dtype=bf16,Hkv=1"), supports="gqa")
def split_by_occupancy(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """With few heads and over 4096 slots a heuristic takes 12 splits, rounded down to 128 slots:
    the end of the cache is in none."""
    n = filled(k, p, q.size(2))
    if n <= 4096 or q.size(0) * k.size(1) >= 16:
        return split(q, k, v, p, tiles(n, 4096))
    size = n // 12 // 128 * 128
    return split(q, k, v, p, [(i * size, (i + 1) * size) for i in range(12)])
