"""Suspects: the values of a geometry that may be why it fails, by what the other geometries of a
hunt show.

A value of which nearly every geometry fails alike is the likelier cause (Nie and Leung, "The
minimal failure-causing schema of combinatorial testing", 2011).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from harness.hunting.failure import kernel
from harness.strategies.factors import FACTORS, Geometry

# A suspect's geometries fail more often than not.
_SHARE = 0.5
_MOST = 3


@dataclass
class Suspects:
    """What the geometries of a hunt were told by, each in its own kernel."""

    _rows: list[tuple[str, Geometry, frozenset[str]]] = field(default_factory=list)

    def add(self, name: str, geometry: Geometry, told: Collection[str]) -> None:
        """Count a geometry of the compiler ``name`` that shows what is ``told``, or nothing."""
        self._rows.append((name, geometry, frozenset(told)))

    def of(self, name: str, geometry: Geometry, told: str) -> list[tuple[float, str]]:
        """The factors whose value in this geometry is suspect of what it is told by, each with the
        share of those with the value that show it; the likeliest first."""
        own = kernel(geometry.case, geometry.device)
        rows = [
            (set(other.row), told in signs)
            for kernels, other, signs in self._rows
            # One that shows something else alone might have shown this as well.
            if kernels == name
            and kernel(other.case, other.device) == own
            and (told in signs or not signs)
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
