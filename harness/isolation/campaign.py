"""A campaign: much work for any ``concurrent.futures.Executor``, whose results bring up more.

Whoever takes part in it may die: what it was doing is done again by another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
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
    running then is waited for; where this is interrupted, it is left. A piece that takes its worker
    along is done again by another."""
    running: dict[Future[Any], tuple[Work, int]] = {}
    again: list[tuple[Work, int]] = []
    while True:
        while len(running) < at_once and time.monotonic() < until:
            work, tries = again.pop() if again else (take(), 0)
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
                if tries < _TRIES:
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
