"""A pool of forked processes, an ``Executor`` of ``concurrent.futures``: a process that dies loses
its own piece of work and no other, which the pool of the standard library does not promise."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from harness.isolation.apart import how_it_ended
from harness.isolation.server import fork
from harness.isolation.values import give, take

_Call = tuple[Callable[..., Any], tuple[Any, ...]]


class WorkerDied(RuntimeError):
    """The process that did a piece of work died; the message says how."""


class Pool(Executor):
    """``jobs`` processes of one thread each, forked when there is work for them. Each begins with a
    call of ``begin``. Functions and values travel by pickle."""

    def __init__(self, jobs: int, begin: _Call) -> None:
        self._begin = begin
        self._threads = ThreadPoolExecutor(jobs)
        self._idle: deque[_Process] = deque()
        self._all: list[_Process] = []
        self._lock, self._killed = threading.Lock(), False

    def submit(
        self, function: Callable[..., Any], /, *arguments: Any, **options: Any
    ) -> Future[Any]:
        """The result of the call comes from a process; what it raises is raised here.

        Raises:
            WorkerDied: by the future, where the process died.
        """
        assert not options
        return self._threads.submit(self._run, function, arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once they have done what they were given."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        self.kill()

    def kill(self) -> None:
        """End the processes, whatever they are doing."""
        with self._lock:
            self._killed = True
            for process in self._all:
                process.end()

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        try:
            process = self._idle.pop()
        except IndexError:
            process = _Process()
            with self._lock:
                self._all.append(process)
                if self._killed:
                    process.end()
            process.ask(*self._begin)
        raised, value = process.ask(function, arguments)
        self._idle.append(process)
        if raised:
            raise value
        return value


class _Process:
    def __init__(self) -> None:
        self._forked = fork("harness.isolation.pool:work")

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        """Whether the call raised, and what it raised or returned."""
        try:
            give(self._forked.channel, (function, arguments))
            answer: tuple[bool, Any] = take(self._forked.channel)
        except (EOFError, OSError):
            raise WorkerDied(how_it_ended(self._forked.end())) from None
        return answer

    def end(self) -> None:
        self._forked.end()


def work(fd: int) -> None:
    """Answer calls until nobody is there to make one."""
    import torch  # noqa: PLC0415  # Whoever starts a pool need not have imported it.

    torch.set_num_threads(1)
    channel = Connection(fd)
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = take(channel)
            try:
                answer = False, function(*arguments)
            except Exception as error:
                answer = True, error
            try:
                give(channel, answer)
            except Exception as error:
                # The message stands for a value that cannot be pickled.
                what = RuntimeError(f"{answer[1]!r} cannot be pickled: {error}")
                give(channel, (True, what))


@contextlib.contextmanager
def processes(
    jobs: int, begin: Callable[..., object] = tuple, *arguments: Any
) -> Iterator[Executor]:
    """A pool of ``jobs`` processes. Each begins with ``begin(*arguments)``. An interrupt ends them,
    whatever they are doing."""
    pool = Pool(jobs, (begin, arguments))
    try:
        yield pool
    except BaseException:
        # What they run may take minutes, and nobody waits for it any more.
        pool.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
