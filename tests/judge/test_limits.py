"""Limits: who takes memory or time is charged with it, the target or the harness."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.case import DecodeCase
from harness.function.limits import TimeLimit
from harness.function.spec import TargetSpec
from harness.function.worker import Worker
from harness.verdict import Verdict
from tests.support import ROOT, TARGETS
from tests.support.processes import Preloaded

# Memory that is reserved and not touched counts for the limit, and takes none.
SCRIPT = """
import torch

from harness.function.limits import MEMORY, MEMORY_PER_THREAD, MemoryLimit

torch.set_num_threads(1)


def reserve(size):
    return torch.empty(size, dtype=torch.uint8)


def fails(limit, size):
    with limit():
        try:
            return reserve(size) is None
        except RuntimeError:
            return True


limit = MemoryLimit("cpu")
own, margin = limit.allowed, 2**26
for inputs in (2**20, own):  # of the harness, beside which the target's own is the same
    limit.begin()
    held = reserve(inputs)
    assert not fails(limit, own - margin), inputs
    assert fails(limit, own + margin), inputs
    held = [held, reserve(own)]  # what the harness takes after a call is not limited
    del held
limit.begin()
with limit():
    kept = reserve(own // 2 + margin)
assert fails(limit, own // 2)
limit.begin()  # what the target keeps is charged to it in later cases too
assert fails(limit, own // 2)
del kept
assert not fails(limit, own // 2)
"""


def test_a_target_is_charged_with_what_it_takes_and_no_more(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    """Whatever the harness holds, and over all cases."""
    script = tmp_path / "limits.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = preloaded.run(script, folder=tmp_path, path=[ROOT])
    assert done.returncode == 0, done.stderr


# Of 128 MiB, so that the harness's own work is timed apart; the query attends 8 slots.
LARGE = DecodeCase(cache_len=2**20, input_pos=(7,), head_dim=16)


@pytest.fixture(scope="module")
def worker(one_thread: None) -> Iterator[Worker]:
    with Worker(TargetSpec(f"{TARGETS}:by_length", cache_len=(1, 2**20)), 120.0) as running:
        yield running


@pytest.mark.parametrize(
    ("slots", "verdict"),
    [(2**20, Verdict.OK), (2**20 - 1, Verdict.OOM), (2**20 - 2, Verdict.TIMEOUT)],
)
def test_a_large_case_gets_the_verdicts_of_small_ones(
    worker: Worker, slots: int, verdict: Verdict
) -> None:
    """A function that reserves half of what it may is OK, one that reserves too much is
    OOM, and one that hangs is ended."""
    timeout = 1.0 if verdict is Verdict.TIMEOUT else None
    outcome = worker.run(LARGE.replace(cache_len=slots), timeout=timeout)
    assert outcome.verdict is verdict, outcome


def test_the_harness_says_when_the_target_runs_on_large_cases_alone() -> None:
    """Its own work on them takes seconds, which must not count as the target's."""
    told: list[bool] = []
    limit = TimeLimit(told.append)
    try:
        for case in (LARGE, LARGE.replace(cache_len=1000)):
            limit.begin(case, 60.0)
            for _ in range(2):
                with limit():
                    told.append(True)
    finally:
        limit.end()
    assert told == [False, *[True, True, False] * 2, *[True] * 2]
