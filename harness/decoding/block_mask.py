"""The block mask of a decode step, computed from the positions alone.

For every query block its table lists which KV blocks are full and which are partial, in
``O(cache_len / block)`` integers, without a host sync and without a ``[Q, S]`` mask.

Which slots a query attends is stated here for the fixed path, again in ``harness.paths.masks``
(other paths), ``harness.case.masks`` (scripts) and ``harness.case.visible`` (the oracle). The
oracle shares no code with the others, so that a mistake in one statement shows as a disagreement.

Shapes: ``B`` sequences, ``Q`` query tokens (``q_len``), ``S`` slots (``cache_len``).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from harness.decoding.cpp_kernels import cpp_kernels

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Range = tuple[Tensor, Tensor]  # the first block, and the one after the last


def decode_block_mask(
    input_pos: Tensor,
    *,
    q_len: int = 1,
    cache_len: int,
    block_size: int | tuple[int, int] = 128,
    window: int | None = None,
    sinks: int = 0,
    prefix: int | Tensor = 0,
    mask_mod: MaskMod | None = None,
    gqa_group: int = 1,
) -> BlockMask:
    """The block mask of one decode step; it serves every layer of the step.

    Query token ``i`` of sequence ``b`` is at ``t = input_pos[b] + i`` and attends slot ``j`` iff
    ``j <= t``, with a window also ``j > t - window or j < sinks``. All tokens of a live sequence
    attend ``j < prefix[b]`` (prefix-LM). A sequence with ``input_pos[b] < 0`` is idle: it attends
    nothing. A token with ``t >= cache_len`` attends those of its slots that the cache has.

    No ``[Q, S]`` mask is built, only ``[B, 1, q_blocks, kv_blocks]`` integers. Blocks that every
    row of a query block attends as a whole are listed as full (the kernel skips ``mask_mod``
    there), and blocks without visible slots are not listed. There are no tables for a compiled
    backward.

    Args:
        input_pos: ``[B]`` int64 or int32, slot of the first query token, whose key and value must
            be written there; negative where idle. It is copied: advancing it later changes nothing.
        q_len: query tokens per sequence (a chunk, or speculative tokens).
        cache_len: slots of the buffers, which need not be a multiple of the block size.
        block_size: ``(query rows, slots)`` of a block, or one int for both; 128 suits the kernels.
        window: tokens that a token attends, itself included; None for all.
        sinks: leading slots that stay visible left of the window.
        prefix: leading slots that all tokens attend, an int or ``[B]`` int64 or int32.
        mask_mod: ``(b, h, q_idx, kv_idx)`` in absolute positions (``q_idx`` is ``t``) and query
            heads, which must allow a slot too. No block is listed as full then, since the kernel
            would skip it there.
        gqa_group: query heads packed into rows: row ``i * gqa_group + g`` is token ``i`` of head
            ``g`` of the group, and there are ``q_len * gqa_group`` rows.

    Raises:
        TypeError: ``input_pos`` or a tensor ``prefix`` is not of an integer dtype.
        ValueError: a wrong shape, device or size, or sinks without a window.
    """
    check_positions("input_pos", input_pos)
    if torch.compiler.is_dynamo_compiling():
        # Under dynamic=True the caller's plain ints are symbols. A mask_mod cannot capture them in
        # compiled flex on CPU: torch 2.13 emits C++ that does not compile.
        for size in (window, sinks, prefix, gqa_group):
            if isinstance(size, int):
                torch._dynamo.comptime.comptime.force_static(size)
    q_block, kv_block = (block_size, block_size) if isinstance(block_size, int) else block_size
    check_at_least(1, q_len=q_len, cache_len=cache_len, gqa_group=gqa_group)
    check_at_least(1, block_size=min(q_block, kv_block))
    check_at_least(0, sinks=sinks)
    if window is not None:
        check_at_least(1, window=window)
    elif sinks:
        raise ValueError(
            f"sinks={sinks} needs a window: without one, all earlier slots are visible"
        )
    if isinstance(prefix, Tensor):
        check_positions("prefix", prefix, like=input_pos)
        prefix = captured(prefix)
    else:
        check_at_least(0, prefix=prefix)

    input_pos = captured(input_pos)
    # An idle sequence's tokens lie before every slot.
    start_of = of_sequence(captured(torch.where(input_pos < 0, -q_len, input_pos)))
    position_of = of_sequence(input_pos)
    prefix_of = of_sequence(prefix) if isinstance(prefix, Tensor) else None

    def decode_mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        head, token = unpack_row(h, q_idx, q_len, gqa_group)
        t = start_of(b) + token
        visible = kv_idx <= t
        if window is not None:
            near = kv_idx > t - window
            visible = visible & ((near | (kv_idx < sinks)) if sinks else near)
        if prefix_of is not None:
            visible = visible | ((kv_idx < prefix_of(b)) & (t >= 0))
        elif prefix:
            visible = visible | ((kv_idx < prefix) & (t >= 0))
        if mask_mod is None:
            return visible
        t = position_of(b).clamp(min=0) + token
        return visible & mask_mod(b, head, t, kv_idx)

    rows = q_len * gqa_group
    row = torch.arange(0, rows, q_block, device=input_pos.device)
    start = input_pos.clamp(min=0)[:, None]
    first = start + row // gqa_group
    last = start + (row + q_block - 1).clamp(max=rows - 1) // gqa_group
    prefix_end = prefix[:, None] if isinstance(prefix, Tensor) else torch.full_like(start, prefix)
    prefix_end = prefix_end.clamp(min=0, max=cache_len) + torch.zeros_like(first)
    full, partial = _block_ranges(first, last, prefix_end, cache_len, kv_block, window, sinks)
    if mask_mod is not None:
        full, partial = [], full + partial
    num_kv_blocks, live = -(-cache_len // kv_block), input_pos >= 0
    # With no block at all in the table, split-KV decoding on CPU leaves the output unwritten (torch
    # 2.13), so an idle sequence lists one block there, all of which decode_mask hides.
    idle_blocks = 1 if cpp_kernels(input_pos.device) else 0
    counts, indices = _block_table(partial, live, num_kv_blocks, idle_blocks)
    full_counts, full_indices = _block_table(full, live, num_kv_blocks, 0) if full else (None, None)
    return BlockMask.from_kv_blocks(
        counts,
        indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=(q_block, kv_block),
        mask_mod=decode_mask,
        seq_lengths=(rows, cache_len),
        compute_q_blocks=False,  # transposed tables serve a backward alone and cost more than this
    )


def _block_ranges(
    first: Tensor,
    last: Tensor,
    prefix_end: Tensor,
    cache_len: int,
    kv_block: int,
    window: int | None,
    sinks: int,
) -> tuple[list[Range], list[Range]]:
    """The full and the partial KV blocks of query blocks that hold the tokens first to last, as
    disjoint ranges of blocks; all tensors are [B, q_blocks].

    Token t attends the slots [0, left) and [right, t]. Over the tokens of a query block, the union
    and the intersection of these are two ranges each as well, so their ends determine the blocks.
    """
    zero = torch.zeros_like(first)
    # Ends are cut to the cache before they are rounded down, so that a block that reaches past the
    # cache is never full.
    seen_by_all = (first + 1).clamp(max=cache_len)
    end = (last // kv_block + 1).clamp(max=-(-cache_len // kv_block))
    if window is None:
        full_end = torch.maximum(prefix_end, seen_by_all) // kv_block
        return [(zero, full_end)], [(full_end, torch.maximum(end, _ceil_div(prefix_end, kv_block)))]
    sink_end = min(sinks, cache_len)
    left_of_all = torch.maximum(prefix_end, (first + 1).clamp(max=sink_end))
    left_of_any = torch.maximum(prefix_end, (last + 1).clamp(max=sink_end))
    right_of_all = (last - window + 1).clamp(min=0)
    right_of_any = (first - window + 1).clamp(min=0)
    left_end = _ceil_div(left_of_any, kv_block)
    begin = torch.maximum(right_of_any // kv_block, left_end)
    full_left = left_of_all // kv_block
    full_begin = torch.maximum(_ceil_div(right_of_all, kv_block), full_left)
    # Where both ranges meet, a block may be full although neither range covers it alone.
    full_begin = torch.where(right_of_all <= left_of_any, full_left, full_begin)
    full_end = torch.maximum(seen_by_all // kv_block, full_begin)
    return [(zero, full_left), (full_begin, full_end)], [
        (full_left, torch.minimum(left_end, full_begin)),
        (torch.maximum(begin, full_left), torch.minimum(end, full_begin)),
        (full_end, left_end),
        (torch.maximum(begin, full_end), end),
    ]


def _block_table(
    ranges: list[Range], live: Tensor, num_kv_blocks: int, idle_blocks: int
) -> tuple[Tensor, Tensor]:
    """Disjoint ``[B, q_blocks]`` ranges as a BlockMask wants them: counts ``[B, 1, q_blocks]`` and
    indices ``[B, 1, q_blocks, num_kv_blocks]``. An idle sequence lists ``idle_blocks`` blocks."""
    place = torch.arange(num_kv_blocks, device=live.device)
    count = torch.zeros_like(ranges[0][0])[..., None]
    indices = place + count
    for begin, end in ranges:
        indices = torch.where(place < count, indices, begin[..., None] + place - count)
        count = count + (end - begin).clamp(min=0)[..., None]
    # Kernels may prefetch one index past the count, so every entry must be a block of the buffer.
    indices = indices.clamp(max=num_kv_blocks - 1)
    count = torch.where(live[:, None, None], count, idle_blocks)[..., 0]
    return _stored(count.to(torch.int32)), _stored(indices.to(torch.int32))


def _stored(table: Tensor) -> Tensor:
    """A table ``[B, ...]`` as ``[B, 1, ...]`` for the one head of the mask.

    Inside a compiled function the added dimension would get stride 0, by which the general Triton
    kernel (torch 2.13) steps from sequence to sequence: all would get the first one's table.
    """
    if not torch.compiler.is_compiling():
        return table[:, None]
    sizes = table.shape
    row = sizes[1] if table.dim() == 2 else sizes[1] * sizes[2]
    strides = (row, row, 1) if table.dim() == 2 else (row, row, sizes[2], 1)
    return table.contiguous().as_strided((sizes[0], 1, *sizes[1:]), strides)


def of_sequence(values: Tensor) -> Callable[[Tensor], Tensor]:
    """The value of sequence ``b`` of ``values`` ``[B]``, as a function of ``b``.

    Eager flex_attention maps a mod over all indices, where it takes longer to look a value up than
    to do all else (torch 2.13); that of a single sequence needs no looking up.
    """
    if values.size(0) == 1 and not torch.compiler.is_compiling():
        return lambda b: values[0]
    return lambda b: values[b]


def captured(positions: Tensor) -> Tensor:
    """A copy of ``[B]`` positions that a mod may capture.

    The copy keeps block table and mask together when the positions are advanced later. The view
    makes inductor store the copy: compiled flex on CPU rejects a captured tensor that is still an
    expression (torch 2.13, "No choices to select").
    """
    return positions.clone().as_strided(positions.shape, (1,))


def unpack_row(h: Tensor, row: Tensor, q_len: int, gqa_group: int) -> tuple[Tensor, Tensor]:
    """The query head and the token of a row, where rows may hold a packed GQA group."""
    if gqa_group == 1:
        return h, row
    if q_len == 1:
        return h * gqa_group + row, torch.zeros_like(row)
    return h * gqa_group + row % gqa_group, row // gqa_group


def _ceil_div(x: Tensor, divisor: int) -> Tensor:
    return (x + divisor - 1) // divisor


def check_at_least(low: int, **sizes: int) -> None:
    """Raise ValueError where a size is below ``low``; the message names the first such size."""
    for name, size in sizes.items():
        if size < low:
            raise ValueError(f"{name} must be at least {low}, got {size}")


def check_positions(name: str, positions: Tensor, like: Tensor | None = None) -> None:
    """Raise TypeError unless positions are int64 or int32, and ValueError unless they are ``[B]``;
    the first size and the device of ``like`` must be theirs."""
    dtype = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
    if dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name} must be an int64 or int32 tensor, got {dtype}")
    if positions.dim() != 1 or (like is not None and positions.size(0) != like.size(0)):
        wanted = "B" if like is None else like.size(0)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(positions.shape)}")
    if like is not None and positions.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {positions.device}")
