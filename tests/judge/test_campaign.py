"""Work handed out to whoever does it: nothing is lost with a worker."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

from harness.isolation.campaign import Lost, LostWork, Work, campaign, gather
from harness.isolation.pool import WorkerDied, processes
from tests.support.processes import PATIENCE


class Dying(Executor):
    """Runs work in this thread; each worker dies over its first piece."""

    def __init__(self, lives: int) -> None:
        self.lives, self.seen = lives, dict[object, int]()

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        key = (function, arguments)
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.seen[key] < self.lives:
            future.set_exception(OSError("the worker died"))
        else:
            future.set_result(function(*arguments))
        return future


@pytest.mark.parametrize(("lives", "lost"), [(2, 0), (3, 0), (9, 3)])
def test_work_of_a_worker_that_dies_is_done_again(lives: int, lost: int) -> None:
    """A few times; then it is told as lost, and the others are done."""
    results: list[Any] = []
    pieces = [Work(abs, (-n,)) for n in (1, 2, 3)]
    take = iter(pieces)
    campaign(
        Dying(lives),
        lambda: next(take, None),
        lambda work, result: results.append(result),
        at_once=2,
        until=math.inf,
    )
    assert sum(isinstance(result, Lost) for result in results) == lost
    assert len(results) == 3


def test_an_error_of_whoever_takes_results_is_not_taken_for_a_lost_worker() -> None:
    """It is a fault of the harness and ends the campaign."""
    take = iter([Work(abs, (-1,))])

    def done(work: Work, result: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        campaign(Dying(1), lambda: next(take, None), done, at_once=1, until=math.inf)


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_are_gathered_in_the_order_of_what_was_asked(at_once: int) -> None:
    """However many are at work, and where workers die."""
    told: list[int] = []
    asked = [(-n,) for n in range(5)]
    assert gather(Dying(2), abs, asked, at_once=at_once, told=told.append) == [0, 1, 2, 3, 4]
    assert told == [1, 2, 3, 4, 5]


def test_what_cannot_be_done_without_ends_in_an_error() -> None:
    """It says what the last worker died of."""
    with pytest.raises(LostWork, match="OSError: the worker died"):
        gather(Dying(9), abs, [(-1,)], at_once=1)


def test_processes_do_work_with_one_thread_each() -> None:
    """What is measured in them does not depend on the machine's cores."""
    import torch

    with processes(2) as executor:
        assert gather(executor, torch.get_num_threads, [()] * 2, at_once=2) == [1, 1]


def die_once(file: str, number: int) -> int:
    """End the process it runs in, unless that was done before."""
    path = Path(file)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return -number


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    """What it was doing is done by another."""
    work = [(str(tmp_path / "died"), number) for number in range(6)]
    with processes(2) as executor:
        assert gather(executor, die_once, work, at_once=2) == [-n for n in range(6)]
    assert (tmp_path / "died").exists()


def die() -> None:
    """End the process it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(text: str) -> None:
    """Raise."""
    raise KeyError(text)


def give(what: str) -> object:
    """Something that cannot travel."""
    return lambda: what


def test_who_works_beside_killers_is_not_given_up() -> None:
    """Three pieces that end their process each time are lost; the four next to them are done."""
    pieces = [Work(abs, (-1,)), *[Work(die, ())] * 3, *(Work(abs, (-n,)) for n in (2, 3, 4))]
    take = iter(pieces)
    results: list[Any] = []
    with processes(4) as executor:
        campaign(
            executor,
            lambda: next(take, None),
            lambda work, result: results.append((work.function, result)),
            at_once=4,
            until=math.inf,
        )
    assert sorted(result for function, result in results if function is abs) == [1, 2, 3, 4]
    lost = [result for function, result in results if function is die]
    assert lost == [Lost("WorkerDied: its process died of SIGKILL")] * 3


def test_what_is_raised_in_a_process_is_raised_here() -> None:
    """And what cannot travel is an error that says so; tensors can. The process goes on."""
    import torch

    with processes(1) as executor:
        assert executor.submit(torch.ones, 3).result().tolist() == [1, 1, 1]
        assert executor.submit(os.getpid).result() == executor.submit(os.getpid).result()
        with pytest.raises(KeyError, match="gone"):
            executor.submit(fail, "gone").result()
        with pytest.raises(RuntimeError, match="cannot be pickled"):
            executor.submit(give, "this").result()
        assert executor.submit(abs, -1).result() == 1


def test_an_interrupted_pool_ends_with_what_it_runs() -> None:
    """Nobody waits for it."""
    futures: list[Future[None]] = []

    def interrupted(ready: Callable[[], object]) -> None:
        with processes(1) as executor:
            futures.append(executor.submit(time.sleep, 10 * PATIENCE))
            while not ready():
                time.sleep(0.01)
            raise KeyboardInterrupt

    begun = time.monotonic()
    # Before there is a process, and after.
    for ready in (lambda: True, lambda: time.monotonic() - begun > 5):
        with pytest.raises(KeyboardInterrupt):
            interrupted(ready)
    assert time.monotonic() - begun < PATIENCE
    for future in futures:
        with pytest.raises((WorkerDied, CancelledError)):
            future.result()


@pytest.mark.nightly
def test_alarms_are_counted_the_same_whatever_the_number_of_jobs() -> None:
    """Runs are merged as they come; verdicts, cases and the worst utilisation are those of one
    process."""
    from tests.false_alarms import Tally, one_run

    runs = [one_run(run, 40) for run in (0, 1)]
    with processes(2) as executor:
        spread = gather(executor, one_run, [(0, 40), (1, 40)], at_once=2)
    merged, again = Tally(), Tally()
    for run in runs:
        merged.merge(run)
    for run in spread[::-1]:
        again.merge(run)
    assert merged.verdicts == again.verdicts >= 80
    assert merged.cases == again.cases
    assert merged.worst == again.worst
    assert merged.called_imprecise == again.called_imprecise == []
    assert not merged.alarms
