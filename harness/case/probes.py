"""Probes: inputs that show which slots a path attends, whatever its rounding.

A needle is one slot that holds nearly all the weight and a value of its own. It shows a lost or
wrong block only where it lies in that block, so needles are tried at many slots. Equal weights
count the slots that are attended. Integers as values are summed exactly in any order.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DecodeCase


def needle_slots(case: DecodeCase) -> dict[str, list[int]]:
    """Slots at which a needle is worth trying, in groups: ``edge`` (the first slots, the newest and
    the next, the edges of the first and the current block), ``mask`` (just outside and just inside
    where each sequence's mask begins or ends), ``inside`` (one in every block)."""
    block = case.block_size[1]
    edge, mask = {0, 1, block - 1, block}, set()
    for position in case.input_pos:
        newest, begin = position + case.q_len - 1, position // block * block
        edge |= {newest, newest + 1, begin, begin - 1}
        for name, argument in case.mask_kind.arguments.items():
            mask |= set(argument.edge(position, case.mask_arguments[name]))
    inside = {
        min(start + block // 2, case.cache_len - 1) for start in range(0, case.cache_len, block)
    }
    groups = {"edge": edge, "mask": mask, "inside": inside}
    return {
        name: slots
        for name, group in groups.items()
        if (slots := sorted(slot for slot in group if 0 <= slot < case.cache_len))
    }


def sweep(case: DecodeCase) -> Iterator[DecodeCase]:
    """The case under every probe, with a tail of large values (``tail=poison``)."""
    poisoned = case.replace(tail="poison", logits="normal")
    for slot in sorted({slot for group in needle_slots(case).values() for slot in group}):
        yield poisoned.replace(probe=f"needle:{slot}")
    yield poisoned.replace(probe="uniform")
    yield poisoned.replace(probe="integers", score="none")
