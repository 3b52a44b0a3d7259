"""Suspects: the values of a geometry that may be why it fails, by what the other geometries of a
hunt show.

A value of which nearly every geometry fails alike is the likelier cause (Nie and Leung, "The
minimal failure-causing schema of combinatorial testing", 2011).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from harness.hunting.failure import kernel
from harness.strategies.factors import FACTORS, Geometry

# A suspect's geometries fail more often than not.
_SHARE = 0.5
_MOST = 3


@dataclass
class Suspects:
    """What the geometries of a hunt were told by: of each compiler and kernel, a geometry's values
    and what it shows."""

    _rows: dict[tuple[str, str], list[tuple[set[tuple[str, str]], frozenset[str]]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, name: str, geometry: Geometry, told: Collection[str]) -> None:
        """Count a geometry of the compiler ``name`` that shows what is ``told``, or nothing."""
        own = name, kernel(geometry.case, geometry.device)
        self._rows[own].append((set(geometry.row), frozenset(told)))

    def of(self, name: str, geometry: Geometry, told: str) -> list[tuple[float, str]]:
        """The factors whose value in this geometry is suspect of what it is told by, each with the
        share of those with the value that show it; the likeliest first."""
        own = name, kernel(geometry.case, geometry.device)
        # One that shows something else alone might have shown this as well.
        rows = [
            (row, told in signs) for row, signs in self._rows[own] if told in signs or not signs
        ]
        shares: list[tuple[float, int, str]] = []
        for factor, value in geometry.row:
            if value == next(iter(FACTORS[factor])):
                continue
            shown = [shows for row, shows in rows if (factor, value) in row]
            if shown and sum(shown) / len(shown) > _SHARE:
                shares.append((sum(shown) / len(shown), len(shown), factor))
        shares.sort(key=lambda share: share[:2], reverse=True)
        return [(share, factor) for share, _, factor in shares[:_MOST]]
