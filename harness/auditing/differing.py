"""Difference: two calls with the same keys and values and the same queries that attend different
slots, or are told to compute something else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.sighting import Sighting

# What is kept of earlier calls, in bytes.
_KEPT = 1 << 28


@dataclass(frozen=True)
class Difference:
    """Where call ``second`` differs from the earlier call ``first`` on the same keys and values.

    ``rows`` are pairs of rows, (sequence and row of the first call, sequence and row of the
    second), with the same query, that differ, of ``compared`` pairs. Of the first of them
    ``first_alone`` and ``second_alone`` are the slots that some head attends in one call alone;
    where there are none, what is asked for differs by ``beyond`` rounding budgets. ``largest`` is
    the largest difference of the two outputs over the rows that differ, and ``relative`` the norm
    of it in units of the norm of the first output. ``offset`` is the row's number among the slots
    that one of them, ``low``, attends as if it stood at the beginning, or None.
    """

    first: Sighting
    second: Sighting
    rows: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    compared: int
    first_alone: tuple[int, ...]
    second_alone: tuple[int, ...]
    beyond: float
    largest: float
    relative: float

    @property
    def slots(self) -> int:
        """How many slots the first pair of rows differs in."""
        return len(self.first_alone) + len(self.second_alone)

    @property
    def without_offset(self) -> Sighting | None:
        """The call whose row sees the slots up to its own number in the call alone, where the other
        sees more: what a mask shows that lacks the query's position."""
        (a, i), (b, j) = self.rows[0]
        one, two = self.first.attended[a, :, i].any(0), self.second.attended[b, :, j].any(0)
        for call, row, mine, other in ((self.first, i, one, two), (self.second, j, two, one)):
            top_left = torch.arange(len(mine)) <= row
            filled = int(other.nonzero()[-1]) + 1 if other.any() else 0
            full = torch.arange(len(other)) < filled
            if torch.equal(mine, top_left) and torch.equal(other, full) and filled > row + 1:
                return call
        return None


class Comparing:
    """Finds where calls differ from earlier ones; of those it keeps as many as ``_KEPT`` allows."""

    def __init__(self) -> None:
        self._rows: dict[int, list[tuple[Sighting, int, int]]] = defaultdict(list)
        self._size = 0
        self.left_out = 0

    def add(self, call: Sighting) -> list[Difference]:
        """The differences of a call from earlier ones: each row next to the first that had its
        query on its keys and values."""
        pairs: dict[int, list[tuple[Sighting, int, int, int, int]]] = defaultdict(list)
        same: dict[tuple[int, int, int], bool] = {}
        fingerprints = call.queries.tolist()
        for b, row_prints in enumerate(fingerprints):
            for j, query in enumerate(row_prints):
                for earlier, a, i in self._rows.get(query, ()):
                    key = (earlier.number, a, b)
                    if key not in same:
                        same[key] = earlier.holds_as(a, call, b)
                    if same[key]:
                        pairs[earlier.number].append((earlier, a, i, b, j))
                        break
        if self._size + call.size <= _KEPT:
            self._size += call.size
            for b, row_prints in enumerate(fingerprints):
                for j, query in enumerate(row_prints):
                    self._rows[query].append((call, b, j))
        else:
            self.left_out += 1
        found = (_difference(rows[0][0], call, rows) for rows in pairs.values())
        return [difference for difference in found if difference is not None]


def _difference(
    first: Sighting, second: Sighting, pairs: list[tuple[Sighting, int, int, int, int]]
) -> Difference | None:
    if first.attended.size(1) != second.attended.size(1):
        return None
    found = [(a, i, b, j, *_alone(first, second, a, i, b, j)) for _, a, i, b, j in pairs]
    slots = [row for row in found if row[4] or row[5]]
    asked = [] if slots else [row for row in found if row[6] > 1]
    off = slots or asked
    if not off:
        return None
    mine = torch.stack([first.output[a, :, i] for a, i, *_ in off]).double()
    other = torch.stack([second.output[b, :, j] for _, _, b, j, *_ in off]).double()
    if mine.shape != other.shape:
        return None
    size = (mine - other).abs()
    return Difference(
        first,
        second,
        tuple(((a, i), (b, j)) for a, i, b, j, *_ in off),
        len(pairs),
        off[0][4],
        off[0][5],
        off[0][6],
        size.max().item(),
        (size.norm() / mine.norm()).item(),
    )


def _alone(
    first: Sighting, second: Sighting, a: int, i: int, b: int, j: int
) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """The slots that one row alone attends, of each, and by how many rounding budgets what the rows
    are asked for differs; 0 where that is unknown."""
    one, two = first.attended[a, :, i], second.attended[b, :, j]
    length = max(one.size(1), two.size(1))
    one, two = (torch.nn.functional.pad(t, (0, length - t.size(1))) for t in (one, two))
    alone = [tuple(_some(x & ~y)) for x, y in ((one, two), (two, one))]
    if first.exact is None or second.exact is None:
        return alone[0], alone[1], 0.0
    assert first.bound is not None
    assert second.bound is not None
    exact, bound = first.exact[a, :, i], first.bound[a, :, i] + second.bound[b, :, j]
    other = second.exact[b, :, j]
    if exact.shape != other.shape:
        return alone[0], alone[1], 0.0
    off = torch.where(exact == other, 0.0, (exact - other).abs() / bound)
    return alone[0], alone[1], off.max().item()


def _some(slots: Tensor) -> Iterator[int]:
    yield from slots.any(0).nonzero().flatten().tolist()
