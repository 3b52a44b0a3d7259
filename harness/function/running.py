"""The running of a search's items: in their order, one after the other or several at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from harness.case.loop import Loop
from harness.function.item import Item, Runner
from harness.function.outcome import Outcome
from harness.function.schedule import Source, interleaved


@dataclass(frozen=True)
class Ran:
    """An item that was run: by which runner, what it showed, in how many seconds, and the loops
    that had run before it in the same process."""

    item: Item
    runner: Runner
    outcome: Outcome
    seconds: float
    history: tuple[Loop, ...]


def ran(runners: Sequence[Runner], sources: Sequence[Source], until: float) -> Iterator[Ran]:
    """The items of ``sources``, in their order, each once it has run; no further one is begun after
    the time ``until``, by ``time.monotonic``. With several runners so many run at once, each in its
    own: what a source learns of an item it learns that much later."""
    if len(runners) == 1:
        for source, item in interleaved(sources):
            if time.monotonic() >= until:
                return
            source.begin()
            yield _learnt(source, _run(runners[0], item))
        return
    pool = ThreadPoolExecutor(len(runners))
    free, running = deque(runners), deque[tuple[Source, Future[Ran]]]()
    try:
        for source, item in interleaved(sources):
            if time.monotonic() >= until:
                break
            source.begin()
            running.append((source, pool.submit(_run, free.popleft(), item)))
            if not free:
                yield _next(running, free)
        while running:
            yield _next(running, free)
    finally:
        # What still runs ends with its runner.
        pool.shutdown(wait=False, cancel_futures=True)


def _next(running: deque[tuple[Source, Future[Ran]]], free: deque[Runner]) -> Ran:
    source, future = running.popleft()
    found = _learnt(source, future.result())
    free.append(found.runner)
    return found


def _learnt(source: Source, found: Ran) -> Ran:
    source.add(found.seconds)
    source.learn(found.item, found.outcome, found.seconds)
    return found


def _run(runner: Runner, item: Item) -> Ran:
    history = tuple(before for before in runner.history if isinstance(before, Loop))
    start = time.monotonic()
    outcome = item.run(runner)
    return Ran(item, runner, outcome, time.monotonic() - start, history)
