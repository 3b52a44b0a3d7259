"""How a cache lies in memory: a buffer, and the view of it that is the cache.

Memory of the buffer outside the view belongs to somebody else (another layer, other heads) and
holds NaN, so that a kernel that ignores strides or offsets cannot go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_MARGIN = 8


@dataclass(frozen=True)
class Layout:
    """``allocate`` makes a buffer for a cache ``[B, Hkv, S, D]``; ``view(buffer, batch)`` is the
    cache in it. ``view`` may be called inside a compiled function."""

    allocate: Callable[[Tensor], Tensor]
    view: Callable[[Tensor, int], Tensor]
    doc: str


def _nan(like: Tensor, *shape: int) -> Tensor:
    return torch.full(shape, float("nan"), dtype=like.dtype, device=like.device)


def identity(buffer: Tensor, batch: int) -> Tensor:
    """The buffer is the cache."""
    return buffer


def _transpose(buffer: Tensor, batch: int) -> Tensor:
    return buffer.transpose(1, 2)


def _middle(buffer: Tensor, batch: int) -> Tensor:
    return buffer[:, :, _MARGIN:-_MARGIN]


def _layer(buffer: Tensor, batch: int) -> Tensor:
    return buffer[1]


def _expand(buffer: Tensor, batch: int) -> Tensor:
    return buffer.expand(batch, -1, -1, -1)


def _columns(buffer: Tensor, batch: int) -> Tensor:
    return buffer[..., _MARGIN:-_MARGIN]


def _every_second(buffer: Tensor, batch: int) -> Tensor:
    return buffer[:, :, ::2]


LAYOUTS: dict[str, Layout] = {
    "contiguous": Layout(torch.empty_like, identity, "[B, H, S, D]"),
    "bshd": Layout(
        lambda c: _nan(c, c.size(0), c.size(2), c.size(1), c.size(3)),
        _transpose,
        "[B, S, H, D] storage",
    ),
    "longer": Layout(
        lambda c: _nan(c, c.size(0), c.size(1), c.size(2) + 2 * _MARGIN, c.size(3)),
        _middle,
        "a slice of a longer buffer",
    ),
    "stacked": Layout(lambda c: _nan(c, 3, *c.shape), _layer, "one layer of [layers, B, H, S, D]"),
    "expanded": Layout(
        lambda c: _nan(c, 1, *c.shape[1:]), _expand, "one sequence's cache, shared by the batch"
    ),
    "wider": Layout(
        lambda c: _nan(c, *c.shape[:3], c.size(3) + 2 * _MARGIN),
        _columns,
        "a head_dim slice of a wider buffer",
    ),
    "stepped": Layout(
        lambda c: _nan(c, c.size(0), c.size(1), 2 * c.size(2), c.size(3)),
        _every_second,
        "every second slot of a buffer",
    ),
}


def store(cache: Tensor, layout: str) -> Tensor:
    """The buffer in which ``cache`` lies in this layout; ``expanded`` keeps sequence 0's."""
    buffer = LAYOUTS[layout].allocate(cache)
    if layout == "expanded":
        return buffer.copy_(cache[:1])
    LAYOUTS[layout].view(buffer, cache.size(0)).copy_(cache)
    return buffer
