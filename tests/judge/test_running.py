"""Items that run at once: in their order, by runners of their own, and nothing after the time."""

from __future__ import annotations

import math
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.case import DecodeCase
from harness.function.item import Single
from harness.function.outcome import Outcome
from harness.function.running import ran
from harness.function.schedule import Source


class Slow:
    """A runner that takes longer for the first items, and refuses to run two at once."""

    def __init__(self) -> None:
        self.history: list[Any] = []
        self.lock = threading.Lock()

    def run(self, case: DecodeCase, **options: Any) -> Outcome:
        assert self.lock.acquire(blocking=False)
        time.sleep(0.02 if case.cache_len < 4 else 0.002)
        self.history.append(case)
        self.lock.release()
        return Outcome(utilisation=case.cache_len / 100)


def items(count: int) -> list[Single]:
    return [Single(DecodeCase(cache_len=n, input_pos=(0,))) for n in range(1, count + 1)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_items_come_in_their_order_each_once_and_every_runner_works(jobs: int) -> None:
    """The later ones are done first; a source learns of each, and its time is counted."""
    runners: list[Any] = [Slow() for _ in range(jobs)]
    learnt: list[Any] = []
    source = Source("a", 1, items(12), learn=lambda item, outcome, seconds: learnt.append(item))
    found = list(ran(runners, [source], math.inf))
    assert [one.item for one in found] == items(12) == learnt
    assert [one.outcome.utilisation for one in found] == [n / 100 for n in range(1, 13)]
    assert source.count == 12
    assert source.seconds == pytest.approx(sum(one.seconds for one in found))
    assert all(runner.history for runner in runners)
    assert all(one.item.case in one.runner.history for one in found)  # type: ignore[attr-defined]


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_item_begins_after_the_time(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs then is waited for; here a second passes with each item."""
    runners: list[Any] = [Slow() for _ in range(jobs)]
    clock = SimpleNamespace(monotonic=lambda: sum(len(runner.history) for runner in runners))
    monkeypatch.setattr("harness.function.running.time", clock)
    assert list(ran(runners, [Source("a", 1, items(12))], 0.0)) == []
    some = list(ran(runners, [Source("a", 1, items(1000))], 20.0))
    assert 20 <= len(some) < 20 + jobs
    assert [one.item for one in some] == items(len(some))
