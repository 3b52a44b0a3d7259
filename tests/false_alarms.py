"""``python -m tests.false_alarms --verdicts 20000``: judge sound implementations, count alarms."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.case import DTYPES, DecodeCase
from harness.case.domain import Domain
from harness.case.features import FEATURES
from harness.isolation.campaign import Lost, LostWork, Work, campaign
from harness.isolation.pool import processes
from harness.paths import Path
from harness.strategies.drawing import MEDIUM, domain_cases
from harness.strategies.paths import fitted, sampled_cases
from harness.verdict import Judgement, Problem, Verdict, judge
from harness.verdict.imprecise import imprecise, precise
from harness.verdict.precision import Counts, observe
from tests.support.sound import SOUND

# Hypothesis draws better in many short runs than in one long one.
CASES_PER_RUN = 100
# Beside them, so many of the shapes that users' functions get: long caches, large batches.
SHAPES_PER_RUN = 25


def problems(run: int, dtype: str, path: Path) -> Iterator[Problem]:
    """The problems that one run of drawn cases gives for paths with the contract of ``path``."""
    shapes = domain_cases(Domain(tuple(FEATURES)), run, MEDIUM)
    cases = [*sampled_cases(CASES_PER_RUN, run), *itertools.islice(shapes, SHAPES_PER_RUN)]
    return fitted(cases, path, dtype=dtype)


@dataclass
class Tally:
    """Verdicts counted, alarms kept, and by implementation and dtype the worst utilisation of the
    budgets of output and logsumexp, with the case; by implementation what was seen of its
    precision, and the times that it was called imprecise."""

    verdicts: int = 0
    cases: set[DecodeCase] = field(default_factory=set)
    alarms: list[Judgement] = field(default_factory=list)
    worst: dict[tuple[str, str], tuple[float, float, DecodeCase]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    precision: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    asked: int = 0
    called_imprecise: list[str] = field(default_factory=list)

    def add(self, judgement: Judgement) -> None:
        """Count one, unless the implementation does not take the case."""
        if judgement.verdict is Verdict.UNSUPPORTED:
            return
        self.verdicts += 1
        self.cases.add(judgement.case)
        key = (judgement.path, judgement.case.dtype)
        self.counts[key] += 1
        if not judgement.verdict.passes:
            self.alarms.append(judgement)
        output = judgement.error.utilisation if judgement.error else math.inf
        logsumexp = judgement.logsumexp_error.utilisation if judgement.logsumexp_error else 0.0
        before = self.worst.get(key)
        if before is None or max(output, logsumexp) > max(before[:2]):
            self.worst[key] = (output, logsumexp, judgement.case)

    def merge(self, other: Tally) -> None:
        """Count what one run counted, and look for imprecision in it and in the sum of all."""
        self.verdicts += other.verdicts
        self.cases |= other.cases
        self.alarms += other.alarms
        for key, count in other.counts.items():
            self.counts[key] += count
        for key, worst in other.worst.items():
            if key not in self.worst or max(worst[:2]) > max(self.worst[key][:2]):
                self.worst[key] = worst
        self.ask(other.precision)

    def ask(self, counts: dict[str, Counts]) -> None:
        """Look for imprecision in the counts of one run, and in those of all runs so far."""
        for name, count in counts.items():
            self.precision[name] += count
            for some in (count, self.precision[name]):
                self.asked += sum(found.strength is not None for found in precise(some))
                self.called_imprecise += [f"{name}: {f.evidence}" for f in imprecise(some)]


def one_run(run: int, most: float = math.inf) -> Tally:
    """Judge every sound implementation on the cases of one run, in every dtype, until there are
    that many verdicts; what is seen of their precision is for whoever merges runs to ask about."""
    result = Tally()
    anyone = next(iter(SOUND.values()))
    for dtype in DTYPES:
        for problem in problems(run, dtype, anyone):
            for path in SOUND.values():
                judgement = judge(path, problem)
                result.add(judgement)
                result.precision[path.name] += observe(problem, judgement, path.precision)
            if result.verdicts >= most:
                return result
    return result


def tally(verdicts: int, first_run: int = 0, jobs: int = 1) -> Tally:
    """Runs until there are enough verdicts, in this process or as many at once in others."""
    result, runs = Tally(), itertools.count(first_run)

    def done(work: Work, found: Any) -> None:
        if isinstance(found, Lost):
            raise LostWork(found.error)
        result.merge(found)
        text = f"run {work.arguments[0]}: {result.verdicts} verdicts"
        print(text, file=sys.stderr, flush=True)

    def take() -> Work | None:
        left = verdicts - result.verdicts
        return Work(one_run, (next(runs), left)) if left > 0 else None

    if jobs == 1:
        while (work := take()) is not None:
            done(work, one_run(*work.arguments))
        return result
    with processes(jobs) as executor:
        campaign(executor, take, done, at_once=jobs, until=math.inf)
    return result


def main(argv: list[str] | None = None) -> int:
    """0 without an alarm, 1 with one."""
    parser = argparse.ArgumentParser(prog="python -m tests.false_alarms", description=__doc__)
    parser.add_argument("--verdicts", type=int, default=20000)
    parser.add_argument("--first-run", type=int, default=0, help="seed of the first drawn run")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = tally(arguments.verdicts, arguments.first_run, arguments.jobs)
    seconds = time.perf_counter() - start
    for (name, dtype), (output, logsumexp, case) in sorted(found.worst.items()):
        count = found.counts[name, dtype]
        worst = f"output {output:.3g}, logsumexp {logsumexp:.3g}"
        print(f"{name:21} {dtype:9} {count:5} verdicts, worst utilisation {worst}: {case}")
    for alarm in found.alarms:
        print(f"ALARM {alarm.path} {alarm.verdicts} {alarm.case}: {alarm.findings[0].evidence}")
    for text in found.called_imprecise:
        print(f"IMPRECISE {text}")
    drawn = f"{found.verdicts} verdicts on {len(found.cases)} different cases"
    print(f"{drawn} in {seconds:.0f} s: {len(found.alarms)} alarms")
    print(f"{found.asked} verdicts on precision: {len(found.called_imprecise)} alarms")
    return 1 if found.alarms or found.called_imprecise else 0


if __name__ == "__main__":
    # Processes find what they are to do by the name of its module.
    from tests.false_alarms import main as run

    raise SystemExit(run())
