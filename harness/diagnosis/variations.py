"""Variations of a failing case, which tell the faults apart that may be behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.case import CaseError, DecodeCase

WIDER = 4  # slots seen beside a token's own
FEW_HEADS = 4  # of a query
LONG = 4  # blocks of a cache in which the newest, first and second block are three


def variations(case: DecodeCase) -> Iterator[DecodeCase]:
    """Variations of a case: the same call at other positions, and on values that show more."""
    last, block = case.cache_len - case.q_len, case.block_size[1]
    newest = max(case.input_pos, default=0) + case.q_len - 1
    plain = case.replace(tail="poison", logits="normal", probe="none")
    yield plain.replace(logits="x5", seed=1)
    if case.mode == "eager" and case.dtype != "float32":
        # In float32 the budget hides less. Eager arithmetic is the same there; a compiled call
        # would be another kernel.
        yield plain.replace(dtype="float32")
        yield plain.replace(dtype="float32", logits="x5", seed=1)
    yield case.replace(tail="poison")
    yield plain
    yield plain.replace(probe="uniform", seed=2)
    if case.quantised is None:
        yield from (plain.replace(probe=f"needle:{slot}") for slot in (0, newest) if slot >= 0)
    for step in (1, -1, block, -block, 2 * block, last // 2):
        moved = tuple(min(max(p + step, 0), last) if p >= 0 else p for p in case.input_pos)
        if moved != case.input_pos:
            yield case.replace(input_pos=moved, tail="poison", probe="none")


def fewer_heads(case: DecodeCase) -> Iterator[DecodeCase]:
    """An eager call with a few of its heads, where it has many: two heads of keys at least, so that
    a wrong one of them shows. A compiled one would be another kernel."""
    group = case.heads // case.kv_heads
    kv_heads = min(case.kv_heads, max(2, FEW_HEADS // group))
    if case.mode == "eager" and 2 * kv_heads <= case.kv_heads:
        yield from _valid(case, heads=group * kv_heads, kv_heads=kv_heads)


def structures(case: DecodeCase) -> Iterator[DecodeCase]:
    """Variations of another shape: a longer cache at positions around its blocks' edges, with
    sequences that differ, other arguments, more query tokens, and more heads. Each would be another
    kernel, so there are none of a compiled case."""
    if case.mode != "eager":
        return
    block = case.block_size[1]
    length = max(case.cache_len, LONG * block + 5)
    plain: dict[str, Any] = {"tail": "poison", "probe": "none", "cache_len": length}
    batch = max(case.batch, 2)
    for newest in (2 * block, 3 * block, 4 * block - 1, 3 * block + block // 2):
        # The sequences alternate between two positions of different blocks.
        turns = (newest, max(newest - block - 1, 0))
        last = length - case.q_len
        for count in (case.batch, batch):
            positions = tuple(min(turns[(b + count - 1) % 2], last) for b in range(count))
            yield from _valid(case, **plain, input_pos=positions)
    # Without score_mods, with one that tells positions apart, and with a window in which more than
    # one slot is seen: some faults are the same but for these.
    edges = tuple((2 * block, 4 * block - 1)[b % 2] - case.q_len + 1 for b in range(batch))
    plain_scores = {"score": "none", "logits": "x5"}
    for changes in (plain_scores, {"score": "bias:4"}, *_other_window(case)):
        yield from _valid(case, **plain, **changes, input_pos=edges)
    # Of three tokens, the first does not see the last slot of its own block.
    across = max(2 * block - 2, 0)
    for q_len in (1, 3):
        yield from _valid(case, **plain, q_len=q_len, input_pos=(across,) * case.batch)
    yield from _valid(case, **plain, heads=2 * case.heads, input_pos=(across,) * case.batch)


def _other_window(case: DecodeCase) -> Iterator[dict[str, str]]:
    """The case's kind of mask with a window whose oldest slot, one of few, is seen. A case without
    a window gets none: the fault may be in what masks of its kind do."""
    if "window" in case.mask_arguments:
        width = 1 + WIDER * case.mask_arguments.get("dilation", 1)
        numbers = [*{**case.mask_arguments, "window": width}.values()]
        yield {"mask": ":".join([case.mask_kind.name, *map(str, numbers)])}


def _valid(case: DecodeCase, **changes: Any) -> Iterator[DecodeCase]:
    """The changed case, unless some argument of it does not allow the change."""
    try:
        yield case.replace(**changes)
    except CaseError:
        return
