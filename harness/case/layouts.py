"""The kinds of layouts: how a cache lies in memory, as the view of a buffer.

Memory of the buffer outside the view belongs to somebody else (another layer, other heads) and
holds NaN, so that a kernel that ignores strides or offsets cannot go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MARGIN = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """``allocate`` makes a buffer for a cache ``[B, Hkv, S, D]``; ``view(buffer, batch)`` is the
    cache in it and may be called inside a compiled function. ``script`` is the same in a standalone
    script: a buffer that holds ``x``, and the view of it.

    An ``offset`` layout's view begins inside its buffer; a ``shared`` one's sequences lie in the
    same memory. ``slots(cache_len, kv_heads)`` is the third dimension of the buffer. A user's
    function that declares ``strided`` is asked for the layouts that are ``strided``: not
    contiguous, with stride 1 over D.
    """

    name: str
    help: str
    allocate: Callable[[Tensor], Tensor]
    view: Callable[[Tensor, int], Tensor]
    script: tuple[str, str]
    strided: bool = True
    offset: bool = False
    shared: bool = False
    slots: Callable[[int, int], int] = lambda cache_len, kv_heads: cache_len


def _nan(like: Tensor, *shape: int) -> Tensor:
    return like.new_full(shape, float("nan"))


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
    layout.name: layout
    for layout in (
        Layout(
            name="contiguous",
            help="[B, H, S, D]",
            allocate=lambda c: c.new_empty(c.shape),
            view=identity,
            script=("x", ""),
            strided=False,
        ),
        Layout(
            name="bshd",
            help="[B, S, H, D] storage",
            allocate=lambda c: _nan(c, c.size(0), c.size(2), c.size(1), c.size(3)),
            view=_transpose,
            # Where S or Hkv is 1, contiguous() would copy nothing.
            script=("torch.stack(x.unbind(1), 2)", ".transpose(1, 2)"),
            slots=lambda cache_len, kv_heads: kv_heads,
        ),
        Layout(
            name="longer",
            help="a slice of a longer buffer",
            allocate=lambda c: _nan(c, c.size(0), c.size(1), c.size(2) + 2 * _MARGIN, c.size(3)),
            view=_middle,
            script=("torch.nn.functional.pad(x, (0, 0, 8, 8), value=math.nan)", "[:, :, 8:-8]"),
            offset=True,
        ),
        Layout(
            name="stacked",
            help="one layer of [layers, B, H, S, D]",
            allocate=lambda c: _nan(c, 3, *c.shape),
            view=_layer,
            script=("torch.stack([x * math.nan, x, x * math.nan])", "[1]"),
            offset=True,
        ),
        Layout(
            name="expanded",
            help="one sequence's cache, shared by the batch",
            allocate=lambda c: _nan(c, 1, *c.shape[1:]),
            view=_expand,
            script=("x[:1].clone()", ".expand(B, -1, -1, -1)"),
            shared=True,
        ),
        Layout(
            name="wider",
            help="a head_dim slice of a wider buffer",
            allocate=lambda c: _nan(c, *c.shape[:3], c.size(3) + 2 * _MARGIN),
            view=_columns,
            script=("torch.nn.functional.pad(x, (8, 8), value=math.nan)", "[..., 8:-8]"),
            strided=False,
            offset=True,
        ),
        Layout(
            name="stepped",
            help="every second slot of a buffer",
            allocate=lambda c: _nan(c, c.size(0), c.size(1), 2 * c.size(2), c.size(3)),
            view=_every_second,
            script=("torch.stack([x, x * math.nan], 3).flatten(2, 3)", "[:, :, ::2]"),
            slots=lambda cache_len, kv_heads: 2 * cache_len,
        ),
    )
}
STRIDED = tuple(name for name, layout in LAYOUTS.items() if layout.strided)
