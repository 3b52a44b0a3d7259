"""Fault models that no formula of a single call can express, so that each is a path of its own:
rows that are never written and state between calls, classes 34 and 36 to 39."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from harness.case import DecodeCase
from harness.faults.fault import Fault, FaultKind
from harness.inputs import Inputs
from harness.paths import PATHS, Path, masks
from harness.paths.calls import Call, flex_call, full_cache_refuses


def _plain(case: DecodeCase) -> str | None:
    if case.recipe != "fresh" or not case.plainly_causal or not case.shared_position:
        return "the planted fault is for one causal position"
    return full_cache_refuses(case)


def _unwritten_rows() -> Path:
    """A path that leaves the last head's rows as the allocator gave them."""
    sound = PATHS["full-cache"]

    def prepare(inputs: Inputs) -> Call:
        call = sound.prepare(inputs)

        def function(**arguments: Any) -> Tensor:
            result = call.function(**arguments)
            output = result[0] if isinstance(result, tuple) else result
            unwritten = torch.empty_like(output)
            unwritten[:, :-1] = output[:, :-1]
            return unwritten

        return Call(function, call.arguments)

    return dataclasses.replace(sound, name="rows-never-written", prepare=prepare)


def _int_position() -> Path:
    """A path whose mask_mod captures the position as a Python int."""

    def prepare(inputs: Inputs) -> Call:
        position = inputs.case.input_pos[0]

        def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return kv <= position + q

        mask = masks.fresh_block_mask(inputs, causal, inputs.case.cache_len)
        return flex_call(inputs, mask)

    return Path("int-position", "", prepare, _plain)


def _stale_capture() -> Path:
    """A path that uses the block mask of a geometry's first call for all later ones."""
    first: dict[object, BlockMask] = {}

    def prepare(inputs: Inputs) -> Call:
        case = inputs.case
        fresh = masks.fresh_block_mask(inputs, masks.mask_mod(inputs), case.cache_len)
        return flex_call(inputs, first.setdefault(case.geometry, fresh))

    return Path("captured-tensor-baked-in", "", prepare, _plain)


def _cached_plan() -> Path:
    """A path that keeps the blocks to attend of a geometry's first call, while the mask moves on.

    The mask hides the other blocks, since eager FlexAttention reads no block table."""
    first: dict[object, Tensor] = {}

    def prepare(inputs: Inputs) -> Call:
        case, size = inputs.case, inputs.case.block_size[1]
        needed = (inputs.input_pos + case.q_len - 1) // size + 1
        planned = first.setdefault(case.geometry, needed)
        inner = masks.mask_mod(inputs)

        def in_plan(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return inner(b, h, q, kv) & (kv < planned[b] * size)

        return flex_call(inputs, masks.fresh_block_mask(inputs, in_plan, case.cache_len))

    return Path("plan-cached", "", prepare, _plain)


def _first_length() -> Path:
    """A path that drops slots past the cache_len of its first call."""
    first: list[int] = []

    def prepare(inputs: Inputs) -> Call:
        first.append(inputs.case.cache_len)
        length = min(first[0], inputs.case.cache_len)
        mask = masks.fresh_block_mask(inputs, masks.mask_mod(inputs), length)
        return flex_call(inputs, mask, length)

    return Path("specialised-on-first-length", "", prepare, _plain)


def _mask_mutated() -> Path:
    """A path that adds the offset to the caller's BlockMask in place, in every call."""

    def prepare(inputs: Inputs) -> Call:
        offset = inputs.input_pos
        # Every block is listed as partial, so that mask_mod alone decides.
        mask = masks.from_kv_blocks(inputs, masks.causal_without_offset)
        call = flex_call(inputs, mask)

        def function(block_mask: BlockMask, **arguments: Any) -> Any:
            inner = block_mask.mask_mod
            block_mask.mask_mod = lambda b, h, q, kv: inner(b, h, q + offset[b], kv)
            return call.function(block_mask=block_mask, **arguments)

        return Call(function, call.arguments)

    return Path("block-mask-mutated", "", prepare, _plain)


FAULTS = [
    Fault(
        "rows-never-written",
        34,
        "some output rows are never written",
        "write every row, or start from zeros",
        "pytorch#194167",
        path=_unwritten_rows,
    ),
    Fault(
        "int-position",
        36,
        "the position is a Python int: one graph per position, then silently eager",
        "capture the position as a tensor",
        "vllm#27178",
        kind=FaultKind.CONTRACT,
        path=_int_position,
    ),
    Fault(
        "captured-tensor-baked-in",
        37,
        "a captured position is baked in: stale once it moves",
        "pass what changes as an argument",
        "pytorch#146377",
        kind=FaultKind.CONTRACT,
        path=_stale_capture,
    ),
    Fault(
        "plan-cached",
        37,
        "the plan of the first call, which blocks to attend, serves later positions",
        "plan again in every step, or key the plan by the positions",
        "pegainfer#291: a plan of lengths that have moved on",
        kind=FaultKind.CONTRACT,
        path=_cached_plan,
    ),
    Fault(
        "specialised-on-first-length",
        38,
        "the first cache_len seen is specialised on: later slots are dropped",
        "mark the length dynamic, or compile each",
        "pytorch#146377",
        kind=FaultKind.CONTRACT,
        path=_first_length,
    ),
    Fault(
        "block-mask-mutated",
        39,
        "the caller's BlockMask is changed in place: a second call composes the offset twice",
        "copy the BlockMask before setting its mask_mod",
        "gpt-fast's recipe, mask.mask_mod = ...",
        kind=FaultKind.CONTRACT,
        path=_mask_mutated,
    ),
]
