"""The kinds of layouts: how a cache lies in memory, as a view of a buffer.

The rest of the buffer, which in practice holds another layer or other heads, is filled with NaN,
so that a kernel that ignores strides or offsets cannot go unnoticed.
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
    """One way in which a cache ``[B, Hkv, S, D]`` lies in memory.

    ``allocate`` makes a buffer for a cache; ``view(buffer, batch)`` is the cache in it and may be
    called inside a compiled function. ``script`` is the text of both in a standalone script: a
    buffer that holds ``x``, and the view of that buffer.

    The view of an ``offset`` layout begins after the start of its buffer; in a ``shared`` layout
    all sequences lie in the same memory. ``slots(cache_len, kv_heads)`` is the number of slots that
    compiled FlexAttention on CPU takes the buffer to have where the view is taken inside the
    compiled function. A user's function that declares the feature ``strided`` gets the layouts
    marked ``strided``, which are not contiguous but have stride 1 over D.
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
    """The view of a contiguous cache: the whole buffer."""
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
            # stack() always copies; where S or Hkv is 1, contiguous() would copy nothing.
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
            slots=lambda cache_len, kv_heads: cache_len + 2 * _MARGIN,
        ),
        Layout(
            name="stacked",
            help="one layer of [layers, B, H, S, D]",
            allocate=lambda c: _nan(c, 3, *c.shape),
            view=_layer,
            script=("torch.stack([x * math.nan, x, x * math.nan])", "[1]"),
            offset=True,
            slots=lambda cache_len, kv_heads: kv_heads,
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


def clash(key: Layout, value: Layout, batch: int) -> str | None:
    """The reason why a case cannot have these layouts of its caches, or None."""
    if key.shared and batch == 0:
        return f"layout: {key.name} needs at least one sequence to share"
    if value.shared != key.shared:
        return f"vlayout: {value.name} cannot go with layout={key.name}"
    return None


# How a query lies in memory: as it is; as the query's part of one projection to query, keys and
# values, [B, Q, Hq + 2 Hkv, D], transposed, the rest of which is NaN, too; or as a view that is
# taken in the compiled function: of that projection, of [B, Q, Hq, D], or of a matrix product,
# [B, Q, Hq * D]. ``PROJECTED`` is the text of the projection in a script, as of a layout.
OUTSIDE = ("contiguous", "projected")  # what a user's function gets
QUERY_LAYOUTS = (*OUTSIDE, "projected-inside", "tokens-inside", "product")
PROJECTED = (
    "torch.constant_pad_nd(x.transpose(1, 2), (0, 0, 0, 2 * HKV), math.nan)",
    "[:, :, :HQ].transpose(1, 2)",
)


def projection(query: Tensor, kv_heads: int) -> Tensor:
    """One projection ``[B, Q, Hq + 2 Hkv, D]`` of which ``query`` is a part."""
    batch, heads, q_len, dim = query.shape
    buffer = _nan(query, batch, q_len, heads + 2 * kv_heads, dim)
    buffer[:, :, :heads].transpose(1, 2).copy_(query)
    return buffer


def projected(query: Tensor, kv_heads: int) -> Tensor:
    """A copy of a query ``[B, Hq, Q, D]`` as a part of one projection, not contiguous."""
    return projection(query, kv_heads)[:, :, : query.size(1)].transpose(1, 2)


STRIDED = tuple(name for name, layout in LAYOUTS.items() if layout.strided)
