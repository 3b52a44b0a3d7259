"""Functions that are wrong in long contexts alone."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    filled,
    finished,
    from_scores,
    merged,
    partial,
    products,
    scores,
    slots_read,
    split,
    tiles,
)
from tests.functions.shown import Once
from tests.functions.shown_conduct import Costs

COMMON = "gqa ragged"


@faulty("WRONG", Once("S=17000,pos=16999,D=16"), supports=COMMON)
def beyond_16384(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The grid has at most 64 splits of 256 slots."""
    return split(q, k, v, p, list(tiles(filled(k, p, 1), 256))[:64])


@faulty("WRONG", Once("S=33000,pos=32900,D=16,probe=needle:32850"), supports=COMMON)
def slot_16_bit(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Slots are signed 16-bit numbers: from 32768 on they are negative, and wrap round."""
    slot = torch.arange(filled(k, p, 1)).to(torch.int16).long()
    return slots_read(q, k, v, p, slot % k.size(2))


@faulty("WRONG", Once("S=66000,pos=65999,D=16,probe=needle:65800"), supports=COMMON)
def slot_65536(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Slots are unsigned 16-bit numbers: slot 65536 is slot 0."""
    return slots_read(q, k, v, p, torch.arange(filled(k, p, 1)) % 65536)


@faulty("LEAK WRONG", Once("S=20000,pos=16400,D=16,tail=poison"), supports="gqa")
def last_tile_beyond_16k(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """From 16384 slots on, tiles of 1024 are loaded without a mask at their end."""
    n = filled(k, p, 1)
    if n <= 16384:
        return dense(q, k, v, p)
    stop = -(-n // 1024) * 1024
    return from_scores(products(q, k[:, :, :stop]), v[:, :, :stop], q)


@faulty("WRONG", Once("S=9000,pos=8999,H=4,D=16,score=alibi"), supports="gqa alibi")
def alibi_table_of_8192(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """ALiBi's distances come from a table of 8192 entries, whose last one holds for all beyond,
    and the newest slots are those at its end."""
    n = filled(k, p, 1)
    if n <= 8192 or alibi_slopes is None:
        return dense(q, k, v, p, alibi_slopes=alibi_slopes)
    slopes = alibi_slopes.unflatten(0, (k.size(1), -1))[..., None, None]
    distance = (n - 1 - torch.arange(n)) % 8192
    return from_scores(products(q, k[:, :, :n]) - slopes * distance, v[:, :, :n], q)


@faulty("WRONG", Once("S=21000,pos=20900,D=16,mask=window:17000"), supports="gqa window ragged")
def window_start_rounded(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """Windows of more than 4096 slots are rounded down to whole tiles of 1024."""
    if window is not None and window > 4096:
        window -= window % 1024
    return dense(q, k, v, p, window=window)


@faulty("OOM", Costs("S=12000,pos=11999,D=16", 500), supports="gqa")
def square_mask(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A square of all pairs of slots is built in each call, to take one row of it."""
    n = filled(k, p, 1)
    row = torch.full((n, n), -torch.inf).triu(1)[int(p[0])]
    return from_scores(products(q, k[:, :, :n]) + row, v[:, :, :n], q)


@faulty("WRONG", Once("S=12000,pos=11990,D=16"), supports=COMMON)
def second_level_of_the_merge(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Beyond 8192 slots, 32 splits of 256 are merged at a time, and what the groups leave is added
    without regard to their largest scores."""
    groups = []
    for start, stop in tiles(filled(k, p, 1), 8192):
        splits = [(start + a, start + b) for a, b in tiles(stop - start, 256)]
        groups.append(
            merged(partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b]) for a, b in splits)
        )
    highest, total, weighted = (sum(x[1:], x[0]) for x in zip(*groups, strict=True))
    return finished((highest, total, weighted), q)


@faulty("WRONG", Once("S=8300,pos=8200,H=8,Hkv=2,D=64,dtype=bf16"), supports="gqa")
def production_shape_alone(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Groups of 4 over more than 8000 slots in a narrow dtype take a kernel that skips every second
    tile of 64 slots."""
    n = filled(k, p, 1)
    if q.dtype == torch.float32 or q.size(1) != 4 * k.size(1) or n <= 8000:
        return dense(q, k, v, p)
    return split(q, k, v, p, list(tiles(n, 64))[::2])
