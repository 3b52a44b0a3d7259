"""A mutant, planted in the copy and tried: killed by which test, or alive."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.mutation.covered import Covered
from tests.mutation.forked import Plugin, fork
from tests.mutation.mutants import Mutant, mutated

# CPU seconds: the first fork takes the tests of one module, of so many seconds; the second all.
FIRST_S = 2.0
# Of all tests of a mutant; the cheapest come first.
MOST_S = 20.0
# A mutant is out of time where its tests take three times what they do, and this.
SPARE_S = 20.0

_TIMES = itertools.count(1)


@contextlib.contextmanager
def planted(file: Path, text: str) -> Iterator[None]:
    """The file with another text; each has a time of its own, by which Python knows that what it
    compiled before is stale."""
    before = file.read_text(encoding="utf-8")
    try:
        file.write_text(text, encoding="utf-8")
        os.utime(file, (when := next(_TIMES), when))
        yield
    finally:
        file.write_text(before, encoding="utf-8")
        os.utime(file, (when := next(_TIMES), when))


def cut(tests: list[str], cost: dict[str, float], most: float) -> list[str]:
    """The first tests, up to so many CPU seconds, one at least."""
    so_far = [*itertools.accumulate(cost[test] for test in tests)]
    return [t for t, sum_s in zip(tests, so_far, strict=True) if sum_s <= most] or tests[:1]


def rounds(tests: list[str], cost: dict[str, float]) -> list[list[str]]:
    """The tests of the module that has most of them in few seconds, then all others."""
    by_file = itertools.groupby(tests, lambda test: test.partition("::")[0])
    first = max((cut([*group], cost, FIRST_S) for _, group in by_file), key=len, default=[])
    others = [test for test in tests if test not in {*first}]
    return [some for some in (first, cut(others, cost, MOST_S)) if some]


def attempt(copy: Path, tests: list[str], cost: dict[str, float], *options: str) -> dict[str, Any]:
    """One fork with the tests."""
    modules = [*dict.fromkeys(test.partition("::")[0] for test in tests)]
    seconds = 3 * sum(cost[test] for test in tests) + SPARE_S
    return fork(copy, Plugin(tests), [*options, *modules], seconds)


def unsound(copy: Path, killers: Iterable[str], covered: Covered) -> list[str]:
    """Of the tests that killed, those that fail without a mutant where the others run first."""
    tests = covered.in_order({test for test in killers if test in covered.cost})
    found = attempt(copy, tests, covered.cost) if tests else {"code": 0, "failed": []}
    if found["code"] not in (0, 1):
        raise RuntimeError(f"the tests end without a mutant: {found}")
    return [*found["failed"]]


def tried(copy: Path, mutant: Mutant, covered: Covered) -> dict[str, Any]:
    """``outcome``: killed, timeout, survived, or untested where no test runs the line; ``by``: what
    killed it; ``cpu_s``."""
    file = copy / mutant.module
    text = file.read_text(encoding="utf-8")
    tests = covered.tests(text, mutant.module, mutant.line)
    source = mutated(mutant, text)
    assert source is not None
    result: dict[str, Any] = {"outcome": "survived" if tests else "untested", "by": None}
    cpu_s, count = 0.0, 0
    with planted(file, source):
        for some in rounds(tests, covered.cost):
            found = attempt(copy, some, covered.cost, "-x")
            cpu_s += found["cpu_s"]
            count += len(some)
            if found["code"] in (-signal.SIGXCPU, -signal.SIGALRM, -signal.SIGKILL):
                result = {"outcome": "timeout", "by": None}
            # 5: the tests are there no more, which no one would notice.
            elif found["code"] not in (0, 5):
                by = [*found.get("failed", ()), f"exit {found['code']}"][0]
                result = {"outcome": "killed", "by": by}
            if found["code"] not in (0, 5):
                break
    return result | {"tests": count, "cpu_s": round(cpu_s, 1)}


def changed_line(text: str, source: str) -> tuple[str, str]:
    """The line of the mutation, before and after; a decorator's is gone after."""
    pairs = itertools.zip_longest(text.splitlines(), source.splitlines(), fillvalue="")
    before, after = next((a, b) for a, b in pairs if a != b)
    return before.strip(), "" if before.strip().startswith("@") else after.strip()
