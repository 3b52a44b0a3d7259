"""The search for a case on which a user's function fails, and its result."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.case import DecodeCase
from harness.case.features import features_of
from harness.function.run import Facts, Outcome, TargetSpec
from harness.function.shrink import shrink
from harness.support.progress import Progress
from harness.verdict import Verdict

# Shrinking only makes the case easier to read, and is worth no more than a minute of waiting.
_SHRINK_SECONDS = 60.0
_SHRINK_HANG_SECONDS = 20.0
_PROGRESS_EVERY = 2.0


class Runner(Protocol):
    """Runs the target on cases: ``LocalRunner`` in this process, ``Worker`` in one of its own."""

    facts: Facts

    def run(self, case: DecodeCase, *, timeout: float | None = None) -> Outcome:
        """Judge the target on ``case``, within ``timeout`` seconds where the runner can end it."""

    def diagnosed(self, case: DecodeCase, outcome: Outcome, *, brief: bool = False) -> Outcome:
        """``outcome`` with a diagnosis; with ``brief``, without drawing further cases."""


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

    ``case`` is the smallest case found that fails, shrunk from ``drawn``; both are None where no
    case fails. ``seconds`` is wall time."""

    spec: TargetSpec
    facts: Facts
    tally: Tally
    outcome: Outcome
    seconds: float
    case: DecodeCase | None = None
    drawn: DecodeCase | None = None

    @property
    def verdict(self) -> Verdict:
        """OK, the failing case's verdict, or UNSUPPORTED where nothing could be judged."""
        if self.case is None and not self.tally.examples:
            return Verdict.UNSUPPORTED
        return self.outcome.verdict

    @property
    def repro(self) -> str | None:
        """The command that runs the failing case again, or None where no case fails."""
        return None if self.case is None else repro_command(self.spec, self.case)


def repro_command(spec: TargetSpec, case: DecodeCase) -> str:
    """The command ``python -m harness check TARGET --case ID`` with the options that it needs."""
    words = ["python", "-m", "harness", "check", spec.target, "--case", str(case)]
    if spec.supports is not None:
        words += ["--supports", ",".join(spec.supports)]
    if spec.precision is not None:
        words += ["--precision", ",".join(f"{k}={v}" for k, v in spec.precision.items())]
    if case.head_dim not in TargetSpec.head_dims:
        words += ["--head-dims", str(case.head_dim)]
    if spec.triton:
        words.append("--triton")
    if spec.device != "cpu":
        words += ["--device", spec.device]
    return shlex.join(words)


def check(
    spec: TargetSpec,
    runner: Runner,
    cases: Iterable[DecodeCase],
    progress: Progress,
    *,
    max_examples: int,
    seconds: float | None = None,
    shrinks: bool = True,
) -> SearchResult:
    """Run the target on ``cases`` until one fails, and shrink that one.

    Args:
        max_examples: the most cases to draw.
        seconds: wall time after which no further case is drawn.
        shrinks: whether to look for a smaller failing case.
    """
    start = time.monotonic()
    tally = Tally()
    for case, ran in _runs(runner, cases, tally, progress, max_examples, seconds):
        if not ran.invalid and not ran.verdict.passes:
            progress(f"{ran.verdict} on {case}; looking for an explanation")
            found = runner.diagnosed(case, ran)
            small, outcome = case, found
            if shrinks:
                progress(f"{outcome.verdict} on {case}; shrinking")
                small, outcome = _smallest(runner, spec, case, found, tally)
            spent = time.monotonic() - start
            return SearchResult(spec, runner.facts, tally, outcome, spent, small, case)
    return SearchResult(spec, runner.facts, tally, Outcome(), time.monotonic() - start)


def _runs(
    runner: Runner,
    cases: Iterable[DecodeCase],
    tally: Tally,
    progress: Progress,
    max_examples: int,
    seconds: float | None,
) -> Iterator[tuple[DecodeCase, Outcome]]:
    start = told = time.monotonic()
    for count, case in enumerate(cases):
        before = time.monotonic()
        if count == max_examples or (seconds is not None and before - start >= seconds):
            return
        if before - told >= _PROGRESS_EVERY:
            progress(f"{count} of at most {max_examples} cases, {tally.examples} judged OK")
            told = before
        outcome = runner.run(case)
        tally.add(case, outcome, time.monotonic() - before)
        yield case, outcome


def _smallest(
    runner: Runner, spec: TargetSpec, case: DecodeCase, outcome: Outcome, tally: Tally
) -> tuple[DecodeCase, Outcome]:
    """The smallest case found with the same verdict and the same leading fault in its diagnosis.

    A hang is shrunk with a shorter time limit, and the case that results must then hang for the
    whole of the real one.
    """
    hangs = outcome.verdict is Verdict.TIMEOUT
    domain = spec.domain(runner.facts.features)
    limit = 0.5 + 10 * tally.slowest if hangs else None
    end = time.monotonic() + (_SHRINK_HANG_SECONDS if hangs else _SHRINK_SECONDS)
    found = {case: outcome}

    def still(smaller: DecodeCase) -> bool | None:
        if time.monotonic() > end:
            return None
        if domain.refuses(smaller) is not None:
            return False
        result = runner.run(smaller, timeout=limit)
        if result.invalid or result.verdict is not outcome.verdict:
            return False
        if outcome.names and not runner.diagnosed(smaller, result, brief=True).like(outcome):
            return False
        found[smaller] = result.explained_by(outcome)
        return True

    small = shrink(case, still)
    if hangs and small != case:
        confirmed = runner.run(small)
        return (small, confirmed) if confirmed.like(outcome) else (case, outcome)
    return small, found[small]
