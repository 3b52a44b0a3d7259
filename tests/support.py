"""What several test modules need: paths with planted behaviour, problems for drawn cases."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import event, reject, settings
from torch import Tensor

from harness.case import DecodeCase, InvalidCase
from harness.function.testing import assert_clean
from harness.inputs import Inputs
from harness.paths import PATHS, Path, Result
from harness.paths.calls import Call
from harness.strategies.paths import fit
from harness.verdict import Problem
from harness.verdict.known_failures import known_failure
from harness.verdict.relations import Related, violations

# What is too long for every run, the nightly profile does in full.
NIGHTLY = settings().max_examples >= 2000


def altered(change: Callable[[Inputs, Result], object], of: str = "full-cache") -> Path:
    """A path that runs a sound one and then changes its result.

    ``change`` returns what the path is to return: an output, or a Result to keep the logsumexp.
    """

    def prepare(inputs: Inputs) -> Call:
        call = PATHS[of].prepare(inputs)

        def function(**arguments: object) -> object:
            result = call.function(**arguments)
            result = Result(*result) if isinstance(result, tuple) else Result(result)
            changed = change(inputs, result)
            if isinstance(changed, Result):
                return changed.output, changed.logsumexp
            return changed

        return Call(function, call.arguments)

    return Path("altered", "a sound path with a changed result", prepare)


def times(factor: float) -> Callable[[Inputs, Result], Tensor]:
    """Multiply the output."""
    return lambda inputs, result: result.output * factor


EXCLUDED: Counter[str] = Counter()


def problem_for(path: str, case: DecodeCase, **fixed: object) -> Problem:
    """The problem that a drawn case becomes for a path; rejected where none can be judged.

    A case in which a known upstream failure may show is left out, and counted.
    """
    case = fit(case, PATHS[path], **fixed)
    if reason := PATHS[path].unsupported(case, "cpu"):
        event(f"rejected: unsupported, {reason}")
        reject()
    try:
        problem = Problem.of(case)
    except InvalidCase:
        event("rejected: invalid case")
        reject()
    known = known_failure(PATHS[path], problem)
    if known is not None:
        EXCLUDED[known.name] += 1
        event(f"excluded: {known.name}")
        reject()
    return problem


def hold(path: str, problem: Problem, *related: Related) -> None:
    """Check relations between the problem's call and changed ones."""
    try:
        found = violations(PATHS[path], problem, *related)
    except InvalidCase:
        reject()
    assert_clean(path, problem.case, found)


def shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has asked about yet has."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone within seconds: the system takes its time."""
    for _ in range(100):
        if not runs(pid):
            return True
        time.sleep(0.05)
    return False
