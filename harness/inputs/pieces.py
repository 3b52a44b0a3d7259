"""Pieces: a cache a bounded number of slots at a time, so that no whole copy of it is needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE = 2**20  # elements
# torch draws so many normal numbers at a time. Where their count is no multiple of it, the last so
# many are drawn again, from further random bits.
_TOGETHER = 16

# The part ``[b, h, slots]`` of a cache ``[B, H, S, D]``.
Part = tuple[slice, slice, slice]
Piece = tuple[Part, Tensor]


def normal_pieces(shape: tuple[int, int, int, int], generator: torch.Generator) -> Iterator[Piece]:
    """Standard normal numbers, float32, for a cache ``shape``, in pieces: the part of the cache,
    and its numbers ``[b, h, s, D]``.

    They are the numbers of one ``torch.randn(shape)``, bit for bit.
    """
    batch, heads, slots, width = shape
    rows = batch * heads * slots
    if rows * width <= PIECE:
        whole = slice(0, batch), slice(0, heads), slice(0, slots)
        yield whole, torch.randn(shape, generator=generator)
        return
    step = max(PIECE // width // _TOGETHER, 1) * _TOGETHER
    start = 0
    while start < rows:
        stop = start + step if rows - start >= step + _TOGETHER else rows
        numbers = torch.randn(stop - start, width, generator=generator)
        while start < stop:
            row, first = divmod(start, slots)
            b, h = divmod(row, heads)
            count = min(stop - start, slots - first)
            part = slice(b, b + 1), slice(h, h + 1), slice(first, first + count)
            yield part, numbers[:count].view(1, 1, count, width)
            numbers = numbers[count:]
            start += count
