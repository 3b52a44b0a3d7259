"""Decode attention over full-length cache buffers: one graph for every position.

This answers the bug report meta-pytorch/gpt-fast#233. The cache is never sliced, so no shape
changes from step to step; the block table lists only blocks with visible slots, so the tail costs
no work; and the mask knows the query's position, which the report's sliced call lacked. Positions
are tensors, so one graph serves them all. Nothing here reads a value on the host or calls
``torch.compile``: call it eagerly, or from a function that you compile.

Tail contract: *finite* values in slots that a query may not attend never change a bit of its row.
NaN or inf in the value of such a slot, or NaN in its key, may reach the row, since 0 * NaN is NaN.
A cache that starts as zeros and receives only finite keys and values never holds one.

Shapes: ``B`` sequences, ``Hq`` query and ``Hkv`` key/value heads, ``Q`` query tokens (``q_len``),
``S`` slots (``cache_len``), ``D`` and ``Dv`` head dimensions of key and value.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.nn.functional import pad

from harness.decoding.block_mask import (
    MaskMod,
    captured,
    check_at_least,
    check_positions,
    decode_block_mask,
    of_sequence,
    unpack_row,
)
from harness.decoding.cpp_kernels import LEAST_SAFE_HEAD_DIM, cpp_kernels, stays_in_bounds

__all__ = ["decode_attention", "decode_block_mask", "offset_score_mod"]

_MOST_PACKED_TOKENS = 16

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def offset_score_mod(
    score_mod: ScoreMod, input_pos: Tensor, *, q_len: int = 1, gqa_group: int = 1
) -> ScoreMod:
    """A ``score_mod`` written for absolute positions, fitted to the rows of a decode step.

    FlexAttention counts query rows from 0 in every call. The wrapped function gets ``q_idx =
    input_pos[b] + i`` (``i`` in an idle sequence) and the query head, even where heads are packed.

    Args:
        score_mod: ``(score, b, h, q_idx, kv_idx)``.
        input_pos, q_len, gqa_group: as for `decode_block_mask`.

    Raises:
        TypeError: ``input_pos`` is not of an integer dtype.
        ValueError: a wrong shape or size.
    """
    check_positions("input_pos", input_pos)
    check_at_least(1, q_len=q_len, gqa_group=gqa_group)
    position_of = of_sequence(captured(input_pos))

    def absolute(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        head, token = unpack_row(h, q_idx, q_len, gqa_group)
        position = position_of(b).clamp(min=0) + token
        return score_mod(score, b, head, position, kv_idx)

    return absolute


def decode_attention(  # noqa: PLR0912  # one call, step by step
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    *,
    block_mask: BlockMask | None = None,
    score_mod: ScoreMod | None = None,
    scale: float | None = None,
    window: int | None = None,
    sinks: int = 0,
    prefix: int | Tensor = 0,
    mask_mod: MaskMod | None = None,
    block_size: int | tuple[int, int] = 128,
    pack_gqa: bool | None = None,
    sink_logits: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of a decode step over the full buffers of a KV cache.

    It takes tensors, so that any cache will do; `KVCache.update` returns the last three of them in
    this order. For one layer, and for several layers that share one block mask::

        out = decode_attention(query, *cache.update(key, value))

        mask = decode_block_mask(cache.input_pos, q_len=Q, cache_len=cache.cache_len)
        out = decode_attention(query, *cache.update(key, value, layer=3), block_mask=mask)

    Rows of an idle sequence are 0 and their logsumexp is -inf. The module's docstring states the
    tail contract.

    Args:
        query: ``[B, Hq, Q, D]``, ``Hq`` a multiple of ``Hkv``.
        key_cache: ``[B, Hkv, S, D]``, and value_cache: ``[B, Hkv, S, Dv]``, of the query's dtype.
            Pass buffers or views taken outside the graph; on CPU a compiled call copies any view.
        input_pos: ``[B]`` int64 or int32, slot of the first query token; negative where idle.
        block_mask: from `decode_block_mask` for these positions, in place of its arguments here.
        score_mod: ``(score, b, h, q_idx, kv_idx)`` in absolute positions and query heads.
        scale: of the scores; None: ``D ** -0.5``.
        window, sinks, prefix, mask_mod, block_size: as for `decode_block_mask`.
        pack_gqa: pack the heads of a group into rows, so that a key block is read once per group;
            a given ``block_mask`` needs ``gqa_group=Hq // Hkv``. None: where it is faster, which is
            where a CPU's kernels are compiled for few tokens, and no ``block_mask`` is given.
        sink_logits: ``[Hq]``, a logit per head that takes part in the softmax without a value
            (GPT-OSS); it needs the logsumexp.
        return_lse: also return the logsumexp of the scores (torch 2.13 cannot compile it on CPU).

    Returns:
        ``[B, Hq, Q, Dv]``, or that and the logsumexp ``[B, Hq, Q]`` (natural logarithm).

    Raises:
        TypeError: dtypes differ, or positions are not of an integer dtype.
        ValueError: shapes, devices or the block mask do not fit, or a block mask was given together
            with arguments of `decode_block_mask`.
    """
    if torch.compiler.is_dynamo_compiling():
        # flex_attention marks the heads static too, but later: the GQA group is computed from them
        # here, and the mods need it as a plain int.
        for tensor in (query, key_cache, value_cache):
            torch._dynamo.mark_static(tensor, 1)
    group = _check_inputs(query, key_cache, value_cache, sink_logits)
    check_positions("input_pos", input_pos, like=query)
    batch, heads, q_len, head_dim = query.shape
    kv_heads, cache_len, value_dim = value_cache.shape[1:]
    if pack_gqa is None:
        pack_gqa = block_mask is None and _packs(query, group)
    group = group if pack_gqa else 1
    if block_mask is None:
        block_mask = decode_block_mask(
            input_pos,
            q_len=q_len,
            cache_len=cache_len,
            block_size=block_size,
            window=window,
            sinks=sinks,
            prefix=prefix,
            mask_mod=mask_mod,
            gqa_group=group,
        )
    elif (
        (window, mask_mod, block_size) != (None, None, 128)
        or sinks
        or isinstance(prefix, Tensor)
        or prefix
    ):
        raise ValueError("block_mask replaces window, sinks, prefix, mask_mod and block_size")
    expected = (q_len * group, cache_len)
    if block_mask.seq_lengths != expected or block_mask.kv_num_blocks.size(0) != batch:
        found = (block_mask.kv_num_blocks.size(0), *block_mask.seq_lengths)
        raise ValueError(
            f"block_mask must be for batch, rows (q_len * packed heads) and slots"
            f" {(batch, *expected)}, got {found}"
        )
    if score_mod is not None:
        score_mod = offset_score_mod(score_mod, input_pos, q_len=q_len, gqa_group=group)
    if group > 1:
        # The heads of a token lie side by side, so that a query block spans few tokens.
        query = query.reshape(batch, kv_heads, group, q_len, head_dim).transpose(2, 3)
        query = query.reshape(batch, kv_heads, q_len * group, head_dim)
    # An idle sequence's query may hold NaN and must not reach the output. Besides, compiled flex on
    # CPU picks its kernel by the shape of the storage under a view of the query (torch 2.13), and
    # computes one row alone where that has q_len 1; where() makes the query a tensor of its own.
    live = (input_pos >= 0)[:, None, None, None]
    query = torch.where(live, query, 0)
    options: Any = None
    if torch.compiler.is_compiling() and cpp_kernels(query.device):
        key_cache, value_cache = _own_storage(key_cache, live), _own_storage(value_cache, live)
        # The split-KV kernel takes 0 for the maximum of a split without visible slots (torch 2.13),
        # and scores below -104 in other splits then vanish. The shorter sequences of a batch have
        # such splits, and so may a caller's mask. No cache has two splits of the size set here.
        if batch > 1 or block_mask.full_kv_num_blocks is None:
            options = {"PARTITION_SIZE": 1 << 30}
        in_bounds = stays_in_bounds(head_dim, block_mask.BLOCK_SIZE[1], cache_len)
        if not statically_known_true(in_bounds):
            # More dims, all of them 0, change no score.
            scale = head_dim**-0.5 if scale is None else scale
            more = (0, LEAST_SAFE_HEAD_DIM - head_dim)
            query, key_cache = pad(query, more), pad(key_cache, more)
    elif not cpp_kernels(query.device):
        query, rows, shared = _settled(query), query.size(2), query.size(1) // kv_heads
        options = _tile_options(*block_mask.BLOCK_SIZE, rows, shared)
    out, aux = flex_attention(
        query,
        key_cache,
        value_cache,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=query.size(1) != kv_heads,
        kernel_options=options,
        return_aux=AuxRequest(lse=return_lse or sink_logits is not None),
    )
    lse = aux.lse
    if group > 1:
        out = out.reshape(batch, kv_heads, q_len, group, value_dim).transpose(2, 3)
        out = out.reshape(batch, heads, q_len, value_dim)
        if lse is not None:
            lse = lse.reshape(batch, kv_heads, q_len, group).transpose(2, 3)
            lse = lse.reshape(batch, heads, q_len)
    if lse is None:
        return out
    if sink_logits is not None:
        out, lse = add_sink(out, lse, sink_logits)
    return (out, lse) if return_lse else out


def _packs(query: Tensor, group: int) -> bool:
    """Whether to pack the heads of a group where the caller leaves that open."""
    # The Triton kernel for decoding packs them by itself. With many tokens, a key block is read for
    # many rows as it is.
    few = query.size(2) <= _MOST_PACKED_TOKENS
    return group > 1 and few and torch.compiler.is_compiling() and cpp_kernels(query.device)


def add_sink(out: Tensor, lse: Tensor, sink_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Put one more logit ``[H]``, which has no value, into each softmax of a finished attention
    output ``[B, H, Q, Dv]`` with logsumexp ``[B, H, Q]``; both are returned anew.

    Every weight is multiplied by the same factor, sigmoid(lse - logit). A row with nothing to
    attend stays 0 and -inf.
    """
    logit = sink_logits[:, None].to(lse.dtype)
    factor = torch.sigmoid(lse - logit)
    with_sink = torch.where(lse == -torch.inf, lse, torch.logaddexp(lse, logit))
    return (out * factor[..., None]).to(out.dtype), with_sink


def _tile_options(q_block: int, kv_block: int, rows: int, group: int) -> dict[str, int] | None:
    """A tile for the Triton kernels where theirs does not divide a block of the mask, or None.

    Then they do not compile (torch 2.13). The decode kernel's tile has all rows of a group, at
    least 16, and 64 slots; the general kernel's is tuned, with at most 128 rows and slots.
    """
    tile_rows, tile_slots = _widest_tile(q_block), _widest_tile(kv_block)
    if rows < 128 and not group & (group - 1):
        fits = rows * group <= tile_rows and tile_slots in (64, 128, kv_block)
    else:
        fits, group = tile_rows == tile_slots == 128, 1
    if fits or tile_rows < max(1, group) or not tile_slots:
        return None  # or no tile will do, and torch says so
    return {"BLOCK_M": min(tile_rows, 64), "BLOCK_N": min(tile_slots, 64)}


def _widest_tile(block: int) -> int:
    """The largest tile that divides a block; 0 without any. Under dynamic=True a block is a symbol,
    which these questions fix."""
    for tile in (128, 64, 32, 16):
        if block % tile == 0:
            return tile
    return 0


def _settled(query: Tensor) -> Tensor:
    """The query with strides that no compiler changes any more, for the Triton kernels.

    The one for decoding (torch 2.13) is given the strides that a query has before the compiler
    decides on them: those of one that is made in the graph, from a view that is not contiguous, are
    others then.
    """
    if not torch.compiler.is_compiling():
        return query
    query = query.contiguous()
    return query.as_strided(query.size(), query.stride())


def _own_storage(cache: Tensor, live: Tensor) -> Tensor:
    """A copy of ``cache`` if it is a view, for compiled flex on CPU.

    That kernel silently reads a view from the start of its storage (torch 2.13): for ``stack[1]``
    of stacked layers it would read layer 0. The compiler would remove a clone, but not where().
    """
    if cache._base is None:
        return cache
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.comptime.comptime(_warn_of_copy)
    return torch.where(live, cache, 0)


def _warn_of_copy(context: object) -> None:
    warnings.warn(
        "decode_attention: a cache is a view, so that every call copies all of it, since compiled"
        " FlexAttention on CPU would read a view that is taken in the graph from the start of its"
        " buffer; give each layer's keys and values buffers of their own",
        stacklevel=2,
    )


def _check_inputs(query: Tensor, key: Tensor, value: Tensor, sink_logits: Tensor | None) -> int:
    """Raise unless the inputs fit together; return the GQA group, query heads per KV head."""
    for name, tensor in (("query", query), ("key_cache", key), ("value_cache", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be [B, heads, length, D], got {list(tensor.shape)}")
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must be {query.dtype} like query, got {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device} like query, got {tensor.device}")
    if key.size(0) != query.size(0) or key.size(3) != query.size(3):
        wanted = f"[{query.size(0)}, Hkv, S, {query.size(3)}]"
        raise ValueError(f"key_cache must be {wanted} to fit query, got {list(key.shape)}")
    if value.shape[:3] != key.shape[:3]:
        wanted = f"[{key.size(0)}, {key.size(1)}, {key.size(2)}, Dv]"
        raise ValueError(f"value_cache must be {wanted} to fit key_cache, got {list(value.shape)}")
    if query.size(1) % key.size(1):
        raise ValueError(f"query heads must be a multiple of {key.size(1)}, got {query.size(1)}")
    if sink_logits is not None and sink_logits.shape != query.shape[1:2]:
        raise ValueError(f"sink_logits must be [{query.size(1)}], got {list(sink_logits.shape)}")
    return query.size(1) // key.size(1)
