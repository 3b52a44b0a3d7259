"""A hunt: geometries that cover every pair, judged on many cases each; what fails is made small,
told apart and kept."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from harness.case import DecodeCase, InvalidCase
from harness.function.outcome import Outcome
from harness.hunting.counts import Counts
from harness.hunting.failure import Found, Seen, refused, stopped, told_by
from harness.hunting.journal import Journal
from harness.hunting.suspects import Suspects
from harness.hunting.work import PATH, judge_cases, look_beside, make_small
from harness.isolation.campaign import Lost, Work, campaign
from harness.paths import PATHS
from harness.strategies.corners import data_cases
from harness.strategies.factors import SPLIT, Geometry, covering, device_of, possible_pairs
from harness.support.progress import Progress
from harness.verdict import Problem, Verdict
from harness.verdict.known_failures import known_as

# Cases of one geometry, by kernels: an interpreter takes long for each.
CASES = {"cpp": 8, "triton": 3, "cuda": 8}
_SECONDS_SMALL = 90.0
# Of so many things to do about what failed, one is to finish what was found.
_FINISHED = 3
# After so many pools without a new geometry there is none.
_MOST_ROUNDS = 50


@dataclass
class Hunt:
    """One hunt over the kernels of these compilers, ``cpp``, ``triton`` and ``cuda``.

    It ends after so many ``seconds`` or ``geometries``, of each compiler. ``found`` are the
    failures, ``lost`` the work over which each worker was lost. ``judge``, ``small`` and
    ``beside`` are what is handed out, functions of a module.
    """

    kernels: tuple[str, ...]
    seed: int
    journal: Journal
    progress: Progress
    seconds: float
    geometries: int
    found: list[Found] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    beside: Callable[..., Any] = look_beside
    judge: Callable[..., Any] = judge_cases
    small: Callable[..., Any] = make_small

    def __post_init__(self) -> None:
        self.counts = {name: Counts() for name in self.kernels}
        self._seen: set[tuple[str, int]] = set()
        self._small: deque[Work] = deque()
        # What geometries showed; which of it is settled, and why some of it is not.
        self._shown: list[tuple[Seen, Geometry]] = []
        self._settled: set[tuple[str, str]] = set()
        self._why: dict[tuple[str, str], str] = {}
        self._found: deque[Found] = deque()
        self._pending: dict[str, deque[Geometry]] = {name: deque() for name in self.kernels}
        self._round = dict.fromkeys(self.kernels, 0)
        self._handed: Counter[str] = Counter()
        self._asked: set[tuple[str, str]] = set()
        # Of which geometries no call was right.
        self._wide: dict[str, bool] = {}
        self._suspects = Suspects()
        self._turns = 0
        self._at_work: Counter[str] = Counter()
        self._before = 0.0
        earlier: list[tuple[str, Geometry, dict[str, str]]] = []
        for line in self.journal.lines():
            if line["kind"] == "judged":
                self._count(line["kernels"], _geometry(line), line["result"])
                self._handed[line["kernels"]] += 1
                self._before = max(self._before, line["after"])
                earlier.append((line["kernels"], _geometry(line), line["failed"]))
        # What shows a failure is counted anew, with what was judged.
        self.found = [dataclasses.replace(one, geometries=0) for one in self.journal.found()]
        for name, geometry, told in earlier:
            self._suspects.add(name, geometry, told)
            self._failed(name, geometry, told)
        self._found += [one for one in self.found if not one.finished]
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """The seconds of this hunt, with those before it was resumed."""
        return self._before + time.monotonic() - self._start

    def run(self, executor: Executor, jobs: int) -> None:
        """Hunt; what was found is in the journal at any time."""
        until = self._start + self.seconds
        campaign(executor, self._take, self._done, at_once=jobs, until=until)

    def _take(self) -> Work | None:
        """What to do next: a geometry of the compiler of which fewer were judged; once every pair
        was handed out, what failed is told apart first, and finished by turns."""
        if all(map(self._once, self.kernels)):
            self._turns += 1
            finish = self._turns % _FINISHED == 0
            work = None if finish and self._found else self._to_make_small()
            if work is not None:
                return work
            if self._found:
                one = self._found.popleft()
                told = one.sign, one.loud, _SECONDS_SMALL
                return Work(self.beside, (str(one.case), one.threads, one.device, *told), one)
        for name in sorted(self.kernels, key=lambda name: self._handed[name]):
            if self._handed[name] >= self.geometries:
                continue
            geometry = self._next(name)
            if geometry is not None:
                self._handed[name] += 1
                path = PATHS[PATH]
                cases = [
                    str(case)
                    for case in data_cases(geometry.case, CASES[name], self.seed)
                    if path.refuses(case) is None
                ]
                place = geometry.threads, geometry.device
                return Work(self.judge, (cases, *place), (name, geometry))
        return None

    def _to_make_small(self) -> Work | None:
        """A failure that none of those found explains, of the kind that most geometries show for
        each that was found, and of these the one with the likeliest suspect; refusals last."""
        self._small = deque(work for work in self._small if not self._settles(work))
        if not self._small:
            return None
        found = Counter(one.sign for one in self.found) + self._at_work
        waiting = Counter(work.about[2] for work in self._small)

        def first(work: Work) -> tuple[bool, float, float]:
            name, geometry, told = work.about
            likely = [share for share, _ in self._suspects.of(name, geometry, told)]
            kind = waiting[told] / (1 + found[told])
            return not refused(told), kind, max(likely, default=0.0)

        work = max(self._small, key=first)
        self._small.remove(work)
        name, geometry, told = work.about
        self._at_work[told] += 1
        factors = [factor for _, factor in self._suspects.of(name, geometry, told)]
        place = geometry.threads, geometry.device
        arguments = (work.arguments[0], *place, told, factors, _SECONDS_SMALL)
        return Work(self.small, arguments, (geometry, told))

    def _settles(self, work: Work) -> bool:
        """Whether a failure that waits is explained by one that was found."""
        _, geometry, told = work.about
        return self._explained(geometry, DecodeCase.from_text(work.arguments[0]), told)

    def _once(self, name: str) -> bool:
        """Whether every pair was handed out, or no more geometries are asked for."""
        first = self._first(name) and (self._round[name] == 0 or self._pending[name])
        return not first or self._handed[name] >= self.geometries

    def _first(self, name: str) -> bool:
        return self._round[name] <= 1

    def _next(self, name: str) -> Geometry | None:
        pending = self._pending[name]
        for _ in range(_MOST_ROUNDS):
            while pending:
                geometry = pending.popleft()
                key = (str(geometry.case), geometry.threads)
                # The first pool is the same where the hunt goes on, whatever was found.
                if key in self._seen or not (self._first(name) or self._unbroken(geometry)):
                    continue
                self._seen.add(key)
                return geometry
            number = self._round[name]
            self._round[name] += 1
            accepts = self._unbroken if number else lambda geometry: True
            pending += covering(name, self.seed + number, accepts)
            if name == "cpp":
                pending += covering(name, self.seed + number, accepts, SPLIT)
        return None

    def _unbroken(self, geometry: Geometry) -> bool:
        return not any(one.breaks(geometry) for one in self.found)

    def _done(self, work: Work, result: Any) -> None:
        if work.function is self.small:
            self._at_work[work.about[1]] -= 1
        if isinstance(result, Lost):
            self.lost.append(f"{work.arguments[0]}: {result.error}")
            if work.function is self.small:
                geometry, told = work.about
                self._why[str(geometry.case), told] = "the work on it was lost"
        elif work.function is self.beside:
            self._looked(work.about, result)
        elif work.function is self.judge:
            name, geometry = work.about
            self._judged(name, geometry, work.arguments, result)
        else:
            geometry, told = work.about
            self._made_small(geometry, told, result)
        judged = ", ".join(f"{name} {self.counts[name].geometries}" for name in self.kernels)
        self.progress(f"geometries {judged}; {len(self.found)} found, {len(self._small)} to shrink")

    def _looked(self, one: Found, result: dict[str, Any]) -> None:
        place = next(n for n, other in enumerate(self.found) if other.key == one.key)
        values = self.found[place].to_values() | result | {"finished": True}
        self.found[place] = Found.from_values(values)
        self.journal.add("found", values)

    def _judged(
        self, name: str, geometry: Geometry, arguments: tuple[Any, ...], result: dict[str, Any]
    ) -> None:
        outcomes = [Outcome.from_values(values) for values in result["outcomes"]]
        told: dict[str, str] = {}
        for text, outcome in zip(arguments[0], outcomes, strict=False):
            if outcome.verdict is not Verdict.OK:
                told.setdefault(told_by(DecodeCase.from_text(text), outcome), text)
        line: dict[str, Any] = {
            "kernels": name,
            "row": list(geometry.row),
            "case": str(geometry.case),
            "threads": geometry.threads,
            "after": self.elapsed,
            "failed": told,
            "result": {
                "seconds": result["seconds"],
                "verdicts": [str(outcome.verdict) for outcome in outcomes],
                "invalid": sum(bool(outcome.invalid) for outcome in outcomes),
            },
        }
        self.journal.add("judged", line)
        self._count(name, geometry, line["result"])
        self._suspects.add(name, geometry, told)
        self._failed(name, geometry, told)

    def _failed(self, name: str, geometry: Geometry, told: dict[str, str]) -> None:
        """Have what a geometry shows made small, unless it is known."""
        for what, text in told.items():
            if not self._explained(geometry, DecodeCase.from_text(text), what):
                self._small.append(Work(self.small, (text,), (name, geometry, what)))
                place = geometry.threads, geometry.device, str(geometry.case)
                self._shown.append((Seen(text, what, *place), geometry))

    def _explained(self, geometry: Geometry, case: DecodeCase, told: str) -> bool:
        """Whether what a geometry shows is a failure that was found; it is counted then, once."""
        for index, one in enumerate(self.found):
            if one.explains(case, geometry.device, told):
                key = (str(geometry.case), told)
                if key not in self._asked:
                    self._asked.add(key)
                    self.found[index] = one.also()
                return True
        return False

    def _made_small(self, geometry: Geometry, told: str, result: dict[str, Any]) -> None:
        key = str(geometry.case), told
        if not result["again"]:
            self._why[key] = "it did not show again"
            return
        self._settled.add(key)
        case = DecodeCase.from_text(result["case"])
        outcome = Outcome.from_values(result["outcome"])
        if self._explained(geometry, case, told):
            return
        one = Found(
            case,
            result["threads"],
            outcome,
            str(geometry.case),
            self.elapsed,
            wide=self._wide.get(str(geometry.case), False),
            known=_known(case, told, geometry.device),
            device=geometry.device,
        )
        self._asked.add(key)
        self.found.append(one)
        self.journal.add("found", one.to_values())
        self._found.append(one)
        self.progress(f"found {one.sign}: {case}")

    def _count(self, name: str, geometry: Geometry, result: dict[str, Any]) -> None:
        self._seen.add((str(geometry.case), geometry.threads))
        self._wide[str(geometry.case)] = not self.counts[name].add(geometry, result)

    @property
    def unsettled(self) -> list[Seen]:
        """Failures that geometries showed and that none of those found explains."""
        return [
            dataclasses.replace(one, why=self._why.get((one.geometry, one.told), one.why))
            for one, geometry in self._shown
            if (one.geometry, one.told) not in self._settled
            and not self._explained(geometry, DecodeCase.from_text(one.case), one.told)
        ]

    def pairs(self, name: str) -> tuple[int, int, int]:
        """How many pairs there are, how many were tried, and how many were in a geometry of which a
        call is right."""
        possible, counts = possible_pairs(name), self.counts[name]
        return len(possible), len(possible & counts.tried), len(possible & counts.covered)


def _geometry(line: dict[str, Any]) -> Geometry:
    row = tuple((first, second) for first, second in line["row"])
    device = device_of(line["kernels"])
    return Geometry(DecodeCase.from_text(line["case"]), line["threads"], row, device)


def _known(case: DecodeCase, told: str, device: str) -> str:
    """The name of the known failure that a failing case may show, or ""."""
    try:
        return known_as(PATHS[PATH], Problem.of(case), stopped(told), device)
    except InvalidCase:
        return ""
