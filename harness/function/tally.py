"""The tally of a search: what was run, and how near to the budget it came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness.case import DecodeCase
from harness.case.classes import Coverage
from harness.case.features import features_of
from harness.case.loop import Loop
from harness.function.calls import Calls
from harness.function.outcome import Outcome
from harness.function.running import Ran
from harness.verdict import Verdict
from harness.verdict.precision import Counts


@dataclass
class Tally:
    """Counts of a search: how many examples were judged, with which features, how near to the
    budget they came, and the graphs of each geometry. ``unsupported`` cases, by reason, and
    ``invalid`` ones are no examples. ``slowest`` is in seconds. ``loops`` are counted apart, with
    their ``calls``, and the most of them in one run, ``longest``. ``precision`` sums the counts of
    all runs, and ``counted`` has those cases whose rows were counted. ``coverage`` has the classes
    of the examples, ``notes`` of how many cases something was noted."""

    examples: int = 0
    features: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    max_utilisation: float | None = None
    worst_case: DecodeCase | Loop | None = None
    graphs: dict[tuple[Any, ...], int] = field(default_factory=dict)
    slowest: float = 0.0
    loops: int = 0
    calls: int = 0
    longest: int = 0
    precision: Counts = field(default_factory=Counts)
    counted: list[DecodeCase] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def refused(self) -> int:
        """How many cases were UNSUPPORTED."""
        return self.unsupported.total()

    @property
    def mostly_unsupported(self) -> bool:
        """Whether more cases were UNSUPPORTED than judged."""
        return self.refused > self.examples

    def add(self, case: DecodeCase, outcome: Outcome, seconds: float) -> None:
        """Count one run, which took ``seconds``."""
        if outcome.invalid:
            self.invalid += 1
            return
        if outcome.verdict is Verdict.UNSUPPORTED:
            self.unsupported[outcome.findings[0].evidence] += 1
            return
        self.examples += 1
        self.features.update(features_of(case))
        self.coverage.add(case)
        self.notes.update(outcome.notes)
        self.used(outcome, case)
        if outcome.graphs:
            known = self.graphs.get(case.geometry, 0)
            self.graphs[case.geometry] = max(known, outcome.graphs)
        if outcome.precision.cells:
            self.precision += outcome.precision
            self.counted.append(case)
        if outcome.verdict is not Verdict.TIMEOUT:
            self.slowest = max(self.slowest, seconds)

    def used(self, outcome: Outcome, what: DecodeCase | Loop) -> None:
        """Remember what came nearest to its budget, or furthest beyond."""
        used = outcome.utilisation
        if used is not None and (self.max_utilisation is None or used > self.max_utilisation):
            self.max_utilisation, self.worst_case = used, what

    @property
    def judged(self) -> int:
        """How many examples and loops were judged."""
        return self.examples + self.loops

    def count(self, one: Ran) -> None:
        """Count an item that was run."""
        if isinstance(one.item, Calls) and one.item.loop.steps:
            self.add_loop(one.item.loop, one.outcome)
        else:
            self.add(one.item.case, one.outcome, one.seconds)

    def add_loop(self, loop: Loop, outcome: Outcome) -> None:
        """Count a loop, if any of its calls could be judged; cases tell why not."""
        if outcome.invalid or outcome.verdict is Verdict.UNSUPPORTED:
            return
        self.loops += 1
        self.calls += loop.calls
        self.longest = max(self.longest, *(step.calls for step in loop.steps), 0)
        self.features.update(features_of(loop.case))
        self.used(outcome, loop)
