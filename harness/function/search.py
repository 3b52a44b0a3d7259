"""The search for a case on which a user's function fails, and its result."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.case import DecodeCase
from harness.case.features import features_of
from harness.function.item import Item, Runner
from harness.function.run import Facts, Outcome, TargetSpec
from harness.function.schedule import Source, interleaved
from harness.function.shrink import shrink
from harness.support.progress import Progress
from harness.verdict import Verdict

# Shrinking only makes the case easier to read, and is worth no more than a minute of waiting.
_SHRINK_SECONDS = 60.0
_SHRINK_HANG_SECONDS = 20.0
_PROGRESS_EVERY = 2.0


@dataclass
class Tally:
    """Counts of a search: how many examples were judged, with which features, how near to the
    budget they came, and the graphs of each geometry. ``unsupported`` cases, by reason, and
    ``invalid`` ones are no examples. ``slowest`` is in seconds."""

    examples: int = 0
    features: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    max_utilisation: float | None = None
    worst_case: DecodeCase | None = None
    graphs: dict[tuple[Any, ...], int] = field(default_factory=dict)
    slowest: float = 0.0

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
        used = outcome.utilisation
        if used is not None and (self.max_utilisation is None or used > self.max_utilisation):
            self.max_utilisation, self.worst_case = used, case
        if outcome.graphs:
            known = self.graphs.get(case.geometry, 0)
            self.graphs[case.geometry] = max(known, outcome.graphs)
        if outcome.verdict is not Verdict.TIMEOUT:
            self.slowest = max(self.slowest, seconds)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    ``item`` is the smallest item found that fails, shrunk from ``drawn``; both are None where
    nothing fails. ``seconds`` is wall time, ``spent`` what each source took of it."""

    spec: TargetSpec
    facts: Facts
    tally: Tally
    outcome: Outcome
    seconds: float
    spent: dict[str, float]
    item: Item | None = None
    drawn: Item | None = None

    @property
    def case(self) -> DecodeCase | None:
        """The failing case, or None where nothing fails."""
        return None if self.item is None else self.item.case

    @property
    def verdict(self) -> Verdict:
        """OK, the failing case's verdict, or UNSUPPORTED where nothing could be judged."""
        if self.item is None and not self.tally.examples:
            return Verdict.UNSUPPORTED
        return self.outcome.verdict

    @property
    def repro(self) -> str | None:
        """The command that runs the failing item again, or None where nothing fails."""
        return None if self.item is None else repro_command(self.spec, self.item)


def repro_command(spec: TargetSpec, item: Item) -> str:
    """The command ``python -m harness check TARGET --case ID`` with the options that it needs."""
    words = ["python", "-m", "harness", "check", spec.target, "--case", str(item.case), *item.words]
    words += spec.declared.words(item.case)
    if spec.triton:
        words.append("--triton")
    if spec.device != "cpu":
        words += ["--device", spec.device]
    return shlex.join(words)


def check(
    spec: TargetSpec,
    runner: Runner,
    sources: Sequence[Source],
    progress: Progress,
    *,
    seconds: float | None = None,
    shrinks: bool = True,
) -> SearchResult:
    """Run the target on the items of ``sources`` until one fails, and shrink that one.

    Args:
        sources: take turns by their shares of the time; the first one bounds the search.
        seconds: wall time after which no further item is run.
        shrinks: whether to look for a smaller failing item.
    """
    start = time.monotonic()
    tally = Tally()
    outcome, small, failed = Outcome(), None, None
    for item, ran in _runs(runner, sources, tally, progress, seconds):
        if ran.invalid or ran.verdict.passes:
            continue
        failed = item
        progress(f"{ran.verdict} on {item.case}; looking for an explanation")
        small, outcome = item, runner.diagnosed(item.case, ran)
        if shrinks:
            progress(f"{outcome.verdict} on {item.case}; shrinking")
            small, outcome = _smallest(runner, spec, item, outcome, tally)
        break
    spent = {source.name: source.seconds for source in sources}
    total = time.monotonic() - start
    return SearchResult(spec, runner.facts, tally, outcome, total, spent, small, failed)


def _runs(
    runner: Runner,
    sources: Sequence[Source],
    tally: Tally,
    progress: Progress,
    seconds: float | None,
) -> Iterator[tuple[Item, Outcome]]:
    start = told = time.monotonic()
    for source, item in interleaved(sources):
        before = time.monotonic()
        if seconds is not None and before - start >= seconds:
            return
        if before - told >= _PROGRESS_EVERY:
            counts = ", ".join(f"{s.count} {s.name}" for s in sources)
            progress(f"{counts}: {tally.examples} judged OK")
            told = before
        outcome = item.run(runner)
        spent = time.monotonic() - before
        source.add(spent)
        tally.add(item.case, outcome, spent)
        yield item, outcome


def _smallest(
    runner: Runner, spec: TargetSpec, item: Item, outcome: Outcome, tally: Tally
) -> tuple[Item, Outcome]:
    """The smallest item found with the same verdict and the same leading fault in its diagnosis.

    A hang is shrunk with a shorter time limit, and the item that results must then hang for the
    whole of the real one.
    """
    hangs = outcome.verdict is Verdict.TIMEOUT
    domain = runner.facts.domain
    limit = 0.5 + 10 * tally.slowest if hangs else None
    end = time.monotonic() + (_SHRINK_HANG_SECONDS if hangs else _SHRINK_SECONDS)
    found = {item.case: outcome}

    def still(smaller: DecodeCase) -> bool | None:
        if time.monotonic() > end:
            return None
        if domain.refuses(smaller) is not None:
            return False
        result = item.on(smaller).run(runner, timeout=limit)
        if result.invalid or result.verdict is not outcome.verdict:
            return False
        if outcome.names and not runner.diagnosed(smaller, result, brief=True).like(outcome):
            return False
        found[smaller] = result.explained_by(outcome)
        return True

    small = shrink(item.case, still)
    if hangs and small != item.case:
        confirmed = item.on(small).run(runner)
        return (item.on(small), confirmed) if confirmed.like(outcome) else (item, outcome)
    return item.on(small), found[small]
