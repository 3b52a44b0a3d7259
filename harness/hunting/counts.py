"""What a hunt has judged of one compiler's kernels, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.hunting.failure import kernel
from harness.strategies.factors import Geometry, Pair
from harness.verdict import Verdict


@dataclass
class Counts:
    """What was judged of one compiler's kernels: geometries, those whose every call is right,
    cases and those that are OK, seconds of work, and pairs: of all geometries, and of those in
    which at least one call was right."""

    geometries: int = 0
    right: int = 0
    split: int = 0
    cases: int = 0
    ok: int = 0
    seconds: float = 0.0
    tried: set[Pair] = field(default_factory=set)
    covered: set[Pair] = field(default_factory=set)

    def add(self, geometry: Geometry, result: dict[str, Any]) -> bool:
        """Count a geometry with the ``result`` that the journal has of it; whether one of its calls
        was right."""
        verdicts = result["verdicts"]
        right = [verdict for verdict in verdicts if verdict == Verdict.OK]
        self.geometries += 1
        self.right += len(right) == len(verdicts)
        self.split += kernel(geometry.case, geometry.device) == "split"
        self.cases += len(verdicts) - result["invalid"]
        self.ok += len(right) - result["invalid"]
        self.seconds += result["seconds"]
        self.tried |= geometry.pairs
        self.covered |= geometry.pairs if right else set()
        return bool(right)
