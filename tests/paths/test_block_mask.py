"""The fixed path's block mask: which blocks are listed and which slots count, exactly."""

import itertools
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

from harness.decoding.attention import decode_block_mask
from tests.support.fixed_path import visible


def listed(num_blocks: Tensor, indices: Tensor) -> Tensor:
    """How often each block is listed, [B, q_blocks, kv_blocks]."""
    out = torch.zeros(indices.shape, dtype=torch.int64)
    for place in itertools.product(*map(range, num_blocks.shape)):
        for block in indices[place][: int(num_blocks[place])].tolist():
            out[(*place, block)] += 1
    return out[:, 0]


@st.composite
def steps(draw: st.DrawFn) -> dict[str, Any]:
    cache_len = draw(st.integers(1, 40))
    q_len = draw(st.integers(1, min(9, cache_len)))
    window = draw(st.none() | st.integers(1, cache_len + 2))
    batch = draw(st.integers(1, 3))
    lengths = st.integers(0, cache_len + 2)
    return {
        "input_pos": [draw(st.integers(-1, cache_len - q_len)) for _ in range(batch)],
        "q_len": q_len,
        "cache_len": cache_len,
        "window": window,
        "sinks": 0 if window is None else draw(st.integers(0, 9)),
        "prefix": draw(lengths | st.lists(lengths, min_size=batch, max_size=batch)),
        "gqa_group": draw(st.sampled_from([1, 1, 2, 3])),
        "block_size": (
            draw(st.sampled_from([1, 2, 4, 8])),
            draw(st.sampled_from([1, 2, 4, 8, 16])),
        ),
    }


def build(step: dict[str, Any], **changes: Any) -> Any:
    step = step | changes
    if isinstance(step["prefix"], list):
        step["prefix"] = torch.tensor(step["prefix"])
    return decode_block_mask(torch.tensor(step.pop("input_pos")), **step)


@given(steps())
@settings(deadline=None, max_examples=150)
def test_block_table_lists_exactly_the_blocks_with_a_visible_slot(step: dict[str, Any]) -> None:
    """Full: seen by every row of the query block; partial: by some; each at most once.

    On CPU an idle sequence lists one partial block, of which it sees nothing.
    """
    group, (q_block, kv_block) = step["gqa_group"], step["block_size"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense = visible(**rule).repeat_interleave(group, dim=1)
    mask = build(step)
    partial = listed(mask.kv_num_blocks, mask.kv_indices)
    full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    for b, q, k in itertools.product(*map(range, partial.shape)):
        if step["input_pos"][b] < 0:
            assert (partial[b, q].sum(), full[b, q].sum()) == (1, 0)
            continue
        rows = slice(q * q_block, (q + 1) * q_block)
        block = dense[b, rows, k * kv_block : (k + 1) * kv_block]
        all_seen = bool(block.all()) and (k + 1) * kv_block <= step["cache_len"]
        expected = (int(block.any() and not all_seen), int(all_seen))
        assert (partial[b, q, k], full[b, q, k]) == expected, (b, q, k)


@given(steps())
@settings(deadline=None, max_examples=50)
def test_mask_mod_sees_exactly_the_visible_slots(step: dict[str, Any]) -> None:
    """The element-wise mask, packed rows included, is the definition."""
    group = step["gqa_group"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense = visible(**rule).repeat_interleave(group, dim=1)
    rows = step["q_len"] * group
    mask_mod = build(step).mask_mod
    actual = create_mask(mask_mod, len(dense), 1, rows, step["cache_len"], device="cpu")
    assert torch.equal(actual[:, 0], dense)


@given(steps())
@settings(deadline=None, max_examples=50)
def test_user_mask_mod_sees_absolute_positions_and_leaves_no_block_full(
    step: dict[str, Any],
) -> None:
    """A parity mask over t, j and the query head is and-ed in, and no block may skip it."""
    group = step["gqa_group"]
    rule = {k: v for k, v in step.items() if k not in ("gqa_group", "block_size")}
    dense, q_len = visible(**rule), step["q_len"]
    batch, kv_heads, cache_len = len(dense), 2, step["cache_len"]

    def parity(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q + 3 * k + h) % 4 != 0

    mask = build(step, mask_mod=parity)
    actual = create_mask(mask.mask_mod, batch, kv_heads, q_len * group, cache_len, device="cpu")
    head = torch.arange(kv_heads * group)[None, :, None, None]
    t = torch.tensor(step["input_pos"])[:, None, None, None] + torch.arange(q_len)[:, None]
    expected = dense[:, None] & ((t + 3 * torch.arange(cache_len) + head) % 4 != 0)
    expected = expected.unflatten(1, (kv_heads, group)).transpose(2, 3).flatten(2, 3)
    assert torch.equal(actual, expected)
    assert mask.full_kv_num_blocks is None
    plain = build(step)
    every = listed(plain.kv_num_blocks, plain.kv_indices)
    every += listed(plain.full_kv_num_blocks, plain.full_kv_indices)
    live = torch.tensor(step["input_pos"]) >= 0
    assert torch.equal(listed(mask.kv_num_blocks, mask.kv_indices)[live], every[live])


def test_mask_and_table_stay_together_when_the_positions_move_on() -> None:
    """A block mask is of the positions that it was built for, not of a buffer that advances."""
    input_pos = torch.tensor([3, 9])
    mask = decode_block_mask(input_pos, cache_len=16, block_size=4)
    input_pos += 5
    actual = create_mask(mask.mask_mod, 2, 1, 1, 16, device="cpu")[:, 0]
    assert torch.equal(actual, visible([3, 9], 1, 16))
