"""The corners of a geometry's data: positions and values at which kernels have gone wrong."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import CaseError, DecodeCase
from harness.case.forms import one_position
from harness.strategies.paths import decode_data, sampled_cases


def _positions(case: DecodeCase) -> Iterator[tuple[int, ...]]:
    """The first slot, the last, both sides of a block's edge, for all sequences; where these may
    differ, very ragged ones, one idle sequence, and all of them idle."""
    batch, last, block = case.batch, case.cache_len - case.q_len, case.block_size[1]
    yield (last,) * batch
    yield (0,) * batch
    for at in (block - 1, block):
        if at <= last:
            yield (at,) * batch
    if one_position(case):
        return
    if batch > 1:
        yield (0,) * (batch - 1) + (last,)
        yield (last,) + (min(block, last),) * (batch - 1)
        yield (-1,) + (last // 2,) * (batch - 1)
    yield (-1,) * batch


def corner_cases(geometry: DecodeCase) -> list[DecodeCase]:
    """Cases of a geometry at its corners: every kind of position with a poisoned tail, and scores
    that are all far below 0 where sequences are as unlike as they may be."""
    found = []
    for positions in _positions(geometry):
        found.append(geometry.replace(input_pos=positions, tail="poison"))
    unlike = [case for case in found if max(case.input_pos, default=-1) >= 0][-1:]
    found += [case.replace(logits="low", tail="leftovers") for case in unlike]
    for case in unlike:
        try:
            found.append(case.replace(probe=f"needle:{max(case.input_pos)}", tail="max"))
        except CaseError:
            continue
    return list(dict.fromkeys(found))


def data_cases(geometry: DecodeCase, count: int, seed: int) -> list[DecodeCase]:
    """So many cases of a geometry: half of them, or fewer, at its corners, the others drawn."""
    corners = corner_cases(geometry)
    some = corners[seed % 2 :: 2] if len(corners) > count // 2 else corners
    drawn = sampled_cases(max(1, count - len(some)), seed, decode_data(geometry))
    return [*some, *drawn][:count]
