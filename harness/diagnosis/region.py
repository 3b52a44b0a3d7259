"""Regions: the rows of a call in which a fault may be, all of them or a part with a name."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.case import DecodeCase

_SEQUENCES = ("all", "first", "last")
_HEADS = ("all", "first", "last", "last but one")
_PLACES = ("all", "block edges")

REGIONS: tuple[str, ...] = tuple(
    "; ".join(
        f"{what}: {which}"
        for what, which in (("sequences", b), ("heads", h), ("query tokens", place))
        if which != "all"
    )
    for place in _PLACES
    for b in _SEQUENCES
    for h in _HEADS
)


def regions(case: DecodeCase) -> Tensor:
    """The rows of each of ``REGIONS`` in a case, bool ``[regions, B, H, Q]``, all rows first."""
    sequence, head = torch.arange(case.batch), torch.arange(case.heads)
    size = case.block_size[1]
    position = torch.tensor(case.input_pos).view(-1, 1) + torch.arange(case.q_len)
    place = position.remainder(size)
    sequences = _chosen(sequence, case.batch, _SEQUENCES)
    heads = _chosen(head, case.heads, _HEADS)
    places = torch.stack(
        [torch.ones_like(place, dtype=torch.bool), (place == 0) | (place == size - 1)]
    )
    rows = (
        places[:, None, None, :, None, :]
        & sequences[None, :, None, :, None, None]
        & heads[None, None, :, None, :, None]
    )
    return rows.flatten(0, 2)


def _chosen(number: Tensor, count: int, which: tuple[str, ...]) -> Tensor:
    """Bool ``[len(which), count]``: the numbers that each word stands for."""
    wanted = {"first": 0, "last": count - 1, "last but one": max(count - 2, 0)}
    every = torch.ones_like(number, dtype=torch.bool)
    return torch.stack([every if word == "all" else number == wanted[word] for word in which])
