"""A campaign: much work for any ``concurrent.futures.Executor``, whose results bring up more.

Whoever takes part in it may die: what it was doing is done again by another.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

# So often work is handed out that takes its worker along.
_TRIES = 3


@dataclass(frozen=True)
class Work:
    """A module's ``function`` and its ``arguments``, plain values that travel anywhere. ``about``
    stays with whoever handed it out."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    about: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Lost:
    """In place of a result, where each worker was lost over it: the last ``error``."""

    error: str


def campaign(
    executor: Executor,
    take: Callable[[], Work | None],
    done: Callable[[Work, Any], None],
    *,
    at_once: int,
    until: float,
) -> None:
    """Hand out what ``take`` gives, ``at_once`` pieces at a time, and tell ``done`` each result in
    this thread, until there is nothing more or the time, by ``time.monotonic``, is up. What is
    running then is waited for; where this is interrupted, it is left.

    Where a pool breaks, all that ran in it is lost, and nobody knows over which piece: each of them
    is done again by itself, and only one that is lost then has lost its worker."""
    running: dict[Future[Any], tuple[Work, int]] = {}
    again: list[tuple[Work, int]] = []
    suspects: list[tuple[Work, int]] = []
    alone = at_once == 1
    while True:
        while len(running) < (1 if alone or suspects else at_once) and time.monotonic() < until:
            alone = bool(suspects) or at_once == 1
            waiting = suspects or again
            work, tries = waiting.pop() if waiting else (take(), 0)
            if work is None:
                break
            running[executor.submit(work.function, *work.arguments)] = (work, tries + 1)
        if not running:
            return
        for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
            work, tries = running.pop(future)
            try:
                done(work, future.result())
            except (Exception, CancelledError) as error:
                if future.cancelled() or future.exception() is None:
                    raise  # It comes from done(), not from the work.
                if isinstance(error, BrokenExecutor) and not alone:
                    suspects.append((work, tries - 1))
                elif tries < _TRIES:
                    again.append((work, tries))
                else:
                    done(work, Lost(f"{type(error).__name__}: {error}".splitlines()[0]))


class LostWork(RuntimeError):
    """Work over which each worker was lost, where its result cannot be done without."""


def gather(
    executor: Executor,
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    at_once: int,
    told: Callable[[int], None] = lambda done: None,
    results: dict[int, Any] | None = None,
) -> list[Any]:
    """What a function returns for each of the arguments, in their order, whoever runs it; ``told``
    gets the number of those that are done, which are in ``results`` by their place, also where
    this is interrupted.

    Raises:
        LostWork: where each worker was lost over one of them.
    """
    results = {} if results is None else results
    pieces = iter([Work(function, given, place) for place, given in enumerate(arguments)])

    def done(work: Work, result: Any) -> None:
        if isinstance(result, Lost):
            raise LostWork(result.error)
        results[work.about] = result
        told(len(results))

    campaign(executor, lambda: next(pieces, None), done, at_once=at_once, until=math.inf)
    return [results[place] for place in range(len(arguments))]


class _Pool(Executor):
    """A pool of processes that is replaced where one of them died, since no pool outlives that:
    all that ran in it is lost, and done again by whoever hands it out."""

    def __init__(self, begin: Callable[[], ProcessPoolExecutor]) -> None:
        self._begin = begin
        self._pool = begin()

    def submit(
        self, function: Callable[..., Any], /, *arguments: Any, **options: Any
    ) -> Future[Any]:
        try:
            return self._pool.submit(function, *arguments, **options)
        except BrokenProcessPool:
            self._pool = self._begin()
            return self._pool.submit(function, *arguments, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@contextlib.contextmanager
def processes(
    jobs: int, begin: Callable[..., object] = tuple, *arguments: Any
) -> Iterator[Executor]:
    """So many processes of one thread each, each of which begins with ``begin(*arguments)``; where
    one dies, others follow, and where this is interrupted, they end with what they run."""
    context = multiprocessing.get_context("spawn")
    pool = _Pool(lambda: ProcessPoolExecutor(jobs, context, _begin, (begin, *arguments)))
    try:
        yield pool
    except BaseException:
        # What they run may take minutes, and nobody waits for it any more.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., object], *arguments: Any) -> None:
    import torch  # noqa: PLC0415  # Only in the processes.

    # Ctrl-C is for the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    begin(*arguments)
