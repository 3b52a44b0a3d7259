"""Smaller cases that stand for one whose dense model, in which faults are planted, would take too
much memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.case import CaseError, DecodeCase

# Of keys and values repeated for each query head: 256 MiB as float64, and a fault may copy them.
DENSE_ELEMENTS = 2**25


def fits_dense_model(case: DecodeCase) -> bool:
    """Whether the dense model of the case takes a bounded amount of memory."""
    rows = case.head_dim + case.value_dim + case.q_len
    return case.batch * case.heads * case.cache_len * rows <= DENSE_ELEMENTS


def smaller(case: DecodeCase) -> Iterator[DecodeCase]:
    """Cases like ``case`` that fit the dense model, the longest first: one sequence with the heads
    of one group, or one head, and then all heads of all sequences."""
    group = case.heads // case.kv_heads
    last = max(range(case.batch), key=lambda b: case.input_pos[b])
    alone = {"input_pos": (case.input_pos[last],), "kv_heads": 1}
    seen = set()
    for changes in ({**alone, "heads": group}, {**alone, "heads": 1}, {}):
        for shorter in _shortened(case, changes):
            if fits_dense_model(shorter):
                if shorter not in seen:
                    seen.add(shorter)
                    yield shorter
                break


def _shortened(case: DecodeCase, changes: dict[str, Any]) -> Iterator[DecodeCase]:
    """The changed case with ever fewer slots. Positions stay as far from the end of the cache as
    they are, or else where they are."""
    slots = case.cache_len
    while slots >= case.q_len:
        gone = case.cache_len - slots
        positions = changes.get("input_pos", case.input_pos)
        lowered = tuple(p - gone if p >= gone else min(p, slots - case.q_len) for p in positions)
        try:
            # A needle may lie in slots that are gone.
            yield case.replace(
                **{**changes, "input_pos": lowered, "probe": "none"}, cache_len=slots
            )
        except CaseError:
            return  # The mask has an argument that needs the slots.
        slots //= 2
