"""The search for a program on which a cache class fails, and its result."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.case import CaseError, DecodeCase
from harness.case.domain import Domain
from harness.case.program import Action, Program
from harness.function import limits
from harness.function.item import Runner
from harness.function.outcome import Outcome
from harness.function.run import Facts
from harness.function.shrink import shrink
from harness.function.spec import TargetSpec
from harness.support.progress import Progress
from harness.verdict import Verdict

_TRIES = 3
_PROGRESS_EVERY = 2.0


@dataclass
class ProgramTally:
    """Counts of a search: ``programs`` and ``rows`` that were judged, ``steps`` by word, the worst
    ``utilisation`` of the budget, refusals by reason, and programs until the first failure."""

    programs: int = 0
    rows: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    invalid: int = 0
    utilisation: float | None = None
    longest: int = 0

    def add(self, program: Program, outcome: Outcome) -> None:
        """Count one program."""
        if outcome.invalid:
            self.invalid += 1
        elif outcome.verdict is Verdict.UNSUPPORTED:
            self.unsupported[outcome.findings[0].evidence] += 1
        else:
            self.programs += 1
            self.rows += outcome.rows
            self.steps.update(step.word for step in program.steps)
            self.longest = max(self.longest, *(held or 0 for held in program.end.tokens))
            if outcome.utilisation is not None and outcome.verdict.passes:
                self.utilisation = max(self.utilisation or 0.0, outcome.utilisation)


@dataclass(frozen=True)
class ProgramResult:
    """What a search found: the smallest ``program`` that fails, shrunk from ``drawn``, both None
    where none does. ``tried`` programs were run until the first failure, and ``tally`` counts them.
    An ``interrupted`` search has what was seen until then."""

    spec: TargetSpec
    facts: Facts
    tally: ProgramTally
    outcome: Outcome
    seconds: float
    program: Program | None = None
    drawn: Program | None = None
    tried: int = 0
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        """OK, the failing program's verdict, or UNSUPPORTED where nothing could be judged."""
        if self.program is None and not self.tally.programs:
            return Verdict.UNSUPPORTED
        return self.outcome.verdict

    @property
    def repro(self) -> str | None:
        """The command that runs the failing program again, or None where none fails."""
        return None if self.program is None else program_command(self.spec, self.program)


def program_command(spec: TargetSpec, program: Program) -> str:
    """The command ``python -m harness check TARGET --case ID --steps STEPS``."""
    words = ["python", "-m", "harness", "check", spec.target, "--case", str(program.case)]
    words += ["--steps", program.words, *spec.declared.words()]
    if spec.device != "cpu":
        words += ["--device", spec.device]
    return shlex.join(words)


class _Failed(Exception):
    """A program failed; Hypothesis shrinks it."""


class _Search:
    """Runs each program once, and remembers what came of it. After the ``end`` a program that was
    not run yet counts as passing, so that drawing and shrinking come to their end."""

    def __init__(self, runner: Runner, progress: Progress, seconds: float | None) -> None:
        self._runner, self._progress = runner, progress
        self._start = self._told = time.monotonic()
        self._end = None if seconds is None else self._start + seconds
        self._known: dict[Program, Outcome] = {}
        self.tally = ProgramTally()
        self.first: tuple[Program, Outcome, int] | None = None
        self.small: tuple[Program, Outcome] | None = None

    def __call__(self, program: Program) -> None:
        """Run the program, and raise where it fails as the first one did."""
        outcome = self._known.get(program)
        if outcome is None:
            if self._end is not None and time.monotonic() > self._end:
                return
            outcome = self._known[program] = self._ran(program)
        if outcome.invalid or outcome.verdict.passes:
            return
        if self.first is None:
            self.first = program, outcome, len(self._known)
            self.more(limits.SHRINK_SECONDS / 2)
            self._progress(f"{outcome.verdict} on {program}")
        if outcome.verdict is self.first[1].verdict:
            self.small = program, outcome
            raise _Failed

    def _ran(self, program: Program) -> Outcome:
        outcome = self._runner.run(program)
        if self.first is None:
            self.tally.add(program, outcome)
            now = time.monotonic()
            if now - self._told >= _PROGRESS_EVERY:
                self._told = now
                self._progress(f"{len(self._known) + 1} programs, {self.tally.rows} rows judged OK")
        return outcome

    def more(self, seconds: float) -> None:
        """Go on for so many seconds from now."""
        self._end = time.monotonic() + seconds

    def fails(self, program: Program) -> bool:
        """Whether a program fails as the first one did."""
        try:
            self(program)
        except _Failed:
            return True
        return False


def check_class(
    spec: TargetSpec,
    runner: Runner,
    progress: Progress,
    *,
    programs: int = 200,
    seed: int = 0,
    seconds: float | None = None,
    named: Program | None = None,
) -> ProgramResult:
    """Run a cache class on drawn programs until one fails, and shrink that one; or on the one that
    is ``named``, which without a call is the geometry of those that are drawn."""
    start = time.monotonic()
    facts, search = runner.facts, _Search(runner, progress, seconds)
    assert facts.abilities is not None
    interrupted = False
    try:
        if named is not None and named.calls:
            search.fails(named)
        else:
            _drawn(search, runner, facts.domain, programs, seed, named)
        outcome = Outcome()
        if search.small is not None:
            small, outcome = search.small
            search.small = small, _settled(runner, small, outcome, progress)
    except KeyboardInterrupt:
        interrupted = True
    found, outcome = search.small or (None, Outcome())
    drawn, _, tried = search.first or (None, None, 0)
    total = time.monotonic() - start
    return ProgramResult(
        spec, facts, search.tally, outcome, total, found, drawn, tried, interrupted
    )


def _drawn(
    search: _Search,
    runner: Runner,
    domain: Domain,
    programs: int,
    seed: int,
    geometry: Program | None,
) -> None:
    # A named program needs no Hypothesis.
    from harness.strategies.programs import search_programs  # noqa: PLC0415

    assert runner.facts.abilities is not None
    try:
        search_programs(
            search,
            runner.facts.abilities,
            domain,
            programs=programs,
            chosen=seed,
            geometry=geometry,
        )
    except _Failed:
        search.more(limits.SHRINK_SECONDS / 2)
        _without_needless_steps(search)
        if geometry is None:
            _in_smallest_geometry(search, domain)


def _in_smallest_geometry(search: _Search, domain: Domain) -> None:
    """Make the geometry smaller, which Hypothesis cannot where the steps must change with it."""
    assert search.small is not None
    program = search.small[0]

    def still(case: DecodeCase) -> bool:
        if domain.refuses(case):
            return False
        try:
            return search.fails(program.replace(case=case))
        except CaseError:
            return False

    shrink(program.case, still)
    for page in (1, 2, 4, 8, 16):
        program = search.small[0]
        if program.page_size is not None and page < program.page_size:
            search.fails(program.replace(page_size=page))


def _without_needless_steps(search: _Search) -> None:
    """Leave out what comes after the failing step, and each step that the failure does not need,
    or does not need once another one brings fewer tokens.

    Hypothesis draws a number of steps first, and does not get below it."""
    assert search.small is not None
    program, outcome = search.small
    if 0 < outcome.number < len(program.steps):
        search.fails(program.replace(steps=program.steps[: outcome.number]))
    before = None
    while before != search.small[0]:
        before = search.small[0]
        for steps in _fewer(before.steps):
            try:
                fewer = before.replace(steps=steps)
            except CaseError:
                continue
            if search.fails(fewer):
                break


def _fewer(steps: tuple[Action, ...]) -> Iterator[tuple[Action, ...]]:
    """The steps without one or two of them, then with fewer tokens, then both at once."""
    without = list(itertools.combinations(steps, len(steps) - 1))
    yield from without
    # Where a page holds two tokens, one less is another case and two less is the same.
    yield from itertools.combinations(steps, max(0, len(steps) - 2))
    for some in (steps, *without):
        for i, step in enumerate(some):
            for lower in step.lowered():
                yield (*some[:i], lower, *some[i + 1 :])


def _settled(runner: Runner, program: Program, outcome: Outcome, progress: Progress) -> Outcome:
    """What a failing program shows in a fresh process, explained."""
    progress(f"{outcome.verdict} on {program}; running it again in a fresh process")
    shows = "" if runner.fresh() else "in this process; it was not run in a fresh one"
    if not shows:
        for _ in range(_TRIES):
            again = runner.run(program)
            if again.verdict is outcome.verdict:
                outcome = again
                break
            runner.fresh()
        else:
            shows = "only after other programs in the same process; by itself it is right"
    return dataclasses.replace(runner.diagnosed(program, outcome), shows=shows)
