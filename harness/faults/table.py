"""Fault models of the block table: classes 14 to 19, 21 and 22.

Eager FlexAttention has no block table, so it cannot show them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention, Weights, softmax

fault = Register()


def _newest(a: Attention) -> Tensor:
    """The slots of the newest token's KV block, bool ``[B, 1, 1, S]``."""
    return a.block == a.current_block


@fault(
    14,
    "the block table is the previous position's: at a block's first token that block is missing",
    "index the table by this step's position",
    "gpt-fast's recipe with a stale input_pos",
)
def stale_block_row(a: Attention) -> Attention | None:
    previous = (a.position[:, :, -1:] - 1).div(a.case.block_size[1], rounding_mode="floor")
    return a.mask(a.allowed & (a.block <= previous))


@fault(
    14,
    "the block table's row is taken with twice its block size",
    "divide by the block size that the table was made with",
    "gpt-fast's input_pos // BLOCK",
)
def row_of_wrong_block_size(a: Attention) -> Attention | None:
    last = a.position[:, :, -1:] // (2 * a.case.block_size[1])
    return a.mask(a.allowed & (a.block <= last))


@fault(
    14,
    "the block table is frozen at the first block while the offset moves",
    "compute the table of every step",
    "gpt-fast's recipe with a captured mask",
)
def frozen_block_row(a: Attention) -> Attention | None:
    return a.mask(a.allowed & (a.block == 0))


@fault(
    15,
    "kv_num_blocks is one too few: the newest block is dropped",
    "list ceil((position + 1) / block) blocks",
    "pegainfer#291",
)
def newest_block_dropped(a: Attention) -> Attention | None:
    return a.mask(a.allowed & ~_newest(a))


@fault(
    15,
    "kv_num_blocks is one too many, as a full block: the block after the newest is attended",
    "list ceil((position + 1) / block) blocks",
    "pegainfer#291",
)
def extra_block_attended(a: Attention) -> Attention | None:
    return a.mask(a.allowed | (a.block == a.current_block + 1))


@fault(
    16,
    "the newest, partial block is listed as full: its mask is skipped",
    "list a block as full only where every row sees all of it",
    "full_kv_num_blocks of BlockMask; pytorch#159247",
)
def partial_block_as_full(a: Attention) -> Attention | None:
    return a.mask(a.allowed | _newest(a))


def _page(a: Attention, page: Tensor) -> Attention:
    """A copy that reads each slot's keys and values from the block ``page`` ``[B, 1, 1, S]`` in
    place of its own."""
    size, last = a.case.block_size[1], a.case.cache_len - 1
    source = (page * size + a.slot % size).clamp(max=last).reshape(-1, 1, a.case.cache_len, 1)
    source = source.expand(*a.key.shape[:3], 1)
    return a.but(
        key=a.key.gather(2, source.expand_as(a.key)),
        value=a.value.gather(2, source.expand_as(a.value)),
    )


@fault(
    17,
    "the newest block is read from the page before it",
    "look up the physical page of every listed block",
    "vllm PR#30915",
)
def wrong_page(a: Attention) -> Attention | None:
    return _page(a, torch.where(_newest(a), (a.block - 1).clamp(min=0), a.block))


@fault(
    17,
    "a page is listed twice: block 1 is read from page 0",
    "list every page once",
    "vllm#42494",
)
def duplicate_page(a: Attention) -> Attention | None:
    return _page(a, torch.where(a.block == 1, 0, a.block).expand(a.case.batch, 1, 1, -1))


@fault(
    17,
    "page 0 is another sequence's",
    "index the page table by sequence",
    "vllm PR#53856",
)
def page_of_another_sequence(a: Attention) -> Attention | None:
    if a.case.batch < 2:
        return None
    first = (a.block == 0)[:, None]
    return a.but(
        key=torch.where(first, a.key.roll(1, 0), a.key),
        value=torch.where(first, a.value.roll(1, 0), a.value),
    )


@fault(
    18,
    "the buffer's last, partial block is dropped: `//` for a division that rounds up",
    "count ceil(cache_len / block) blocks",
    "pytorch#133717, PR#134536",
)
def last_partial_block_dropped(a: Attention) -> Attention | None:
    size = a.case.block_size[1]
    return a.mask(a.allowed & (a.slot < a.case.cache_len // size * size))


@fault(
    18,
    "the zeros that fill up the buffer's last page are attended",
    "mask slots from cache_len on",
    "pytorch#159247",
)
def page_padding_attended(a: Attention) -> Attention | None:
    size = a.case.block_size[1]
    padding = -a.case.cache_len % size
    last = a.live & (a.current_block == a.block[-1])
    count = torch.where(last, padding, 0)

    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = softmax(inner, s)
        # A slot of zeros has score 0, and its value adds nothing.
        extra = count * (-logsumexp).exp().unsqueeze(-1).masked_fill(~a.live, 0.0)
        return weights / (1 + extra), logsumexp

    return a.but(normalise=normalise) if padding else None


@fault(
    19,
    "a sequence with nothing to attend gets the mean of all values",
    "a row whose every score is masked is 0",
    "pytorch PR#131552",
)
def empty_row_uniform(a: Attention) -> Attention | None:
    if a.live.all():
        return None

    def scores(inner: Attention) -> Tensor:
        return a.scores(inner).masked_fill(~a.live, 0.0)

    return a.but(allowed=a.allowed | ~a.live, scores=scores)


@fault(
    19,
    "a sequence with nothing to attend gets NaN",
    "a row whose every score is masked is 0",
    "pytorch PR#134650",
)
def empty_row_nan(a: Attention) -> Attention | None:
    if a.live.all():
        return None

    def combine(inner: Attention, weights: Tensor) -> Tensor:
        return a.combine(inner, weights).masked_fill(~a.live, math.nan)

    return a.but(combine=combine)


@fault(
    21,
    "the block table's batch stride is lost: every sequence gets the next one's table",
    "keep all axes when slicing a BlockMask",
    "pytorch#163314, PR#163426",
)
def table_of_next_sequence(a: Attention) -> Attention | None:
    if a.case.batch < 2:
        return None
    listed = a.listed(a.allowed.any(2, keepdim=True)).roll(-1, 0)
    return a.mask(a.allowed & listed[..., a.block])


@fault(
    22,
    "the mask is shorter than the cache: its last block of slots is cropped",
    "make the mask for cache_len slots",
    "pytorch#141435, #139462",
)
def mask_too_short(a: Attention) -> Attention | None:
    return a.mask(a.allowed & (a.slot < a.case.cache_len - a.case.block_size[1]))


@fault(
    22,
    "the mask is for a longer cache and aligned to its end: a block of the tail is attended",
    "make the mask for cache_len slots",
    "pytorch#143260",
)
def mask_too_long(a: Attention) -> Attention | None:
    return a.mask(a.visible(a.position + a.case.block_size[1]))
