"""Limits on a target's memory and time, which count while the target runs and at no other time."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.case import DecodeCase

# A target gets this much address space, or half of the machine's memory where that is less. There
# is more for each thread, which reserves an arena of addresses without using it.
MEMORY = 4 * 2**30
MEMORY_PER_THREAD = 256 * 2**20
# With caches of more elements, what the harness does for a case takes seconds, which must not
# count.
TIMED_APART = 2**24
# The harness's own work on any case ends within so many seconds, or something is wrong with it.
OWN_SECONDS = 3600
# A process ends itself so many seconds after its time limit, since its parent may have been killed.
GRACE = 30
# Shrinking only makes a case easier to read, and is worth no more than a minute of waiting.
SHRINK_SECONDS = 60.0
SHRINK_HANG_SECONDS = 20.0
_STATM = Path("/proc/self/statm")


class MemoryLimit:
    """A limit of the address space during a target's calls, as a context of each.

    What the harness takes for a case, its inputs for the most part, is allowed on top; what the
    target keeps from one case to the next is not. ``allowed`` is the target's, in bytes.
    """

    def __init__(self, device: str) -> None:
        # There is no limit on CUDA, which reserves more addresses than there is memory.
        self._limits = device == "cpu" and _STATM.exists()
        self._start = self._idle = self._used() if self._limits else 0
        self._harness: int | None = 0
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        threads = MEMORY_PER_THREAD * (os.cpu_count() or 1)
        self.allowed = threads + min(MEMORY, page * pages // 2)

    @staticmethod
    def _used() -> int:
        used = _STATM.read_text(encoding="ascii").split()[0]
        return int(used) * os.sysconf("SC_PAGE_SIZE")

    def begin(self) -> None:
        """A case begins: what is allocated until its first call is the harness's."""
        if self._limits:
            self._idle, self._harness = self._used(), None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A call of the target."""
        if not self._limits:
            yield
            return
        if self._harness is None:
            self._harness = max(0, self._used() - self._idle)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = self._start + self._harness + self.allowed
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class TimeLimit:
    """An alarm that ends this process in case its parent does not. On large cases ``tell`` gets
    whether the target runs, each time that changes, so that the parent can count its time alone."""

    def __init__(self, tell: Callable[[bool], None]) -> None:
        self._tell = tell
        self._seconds, self._apart = 0, False

    def begin(self, case: DecodeCase, seconds: float) -> None:
        """A case begins, with a limit of so many seconds."""
        slots = case.batch * case.kv_heads * case.cache_len
        self._apart = slots * (case.head_dim + case.value_dim) > TIMED_APART
        self._seconds = int(seconds) + GRACE
        signal.alarm(self._seconds)
        self._now(runs=False)

    def again(self) -> None:
        """Another call of the same case begins, with as many seconds."""
        signal.alarm(self._seconds)

    def end(self) -> None:
        """The case is over."""
        signal.alarm(0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """A call of the target."""
        self._now(runs=True)
        try:
            yield
        finally:
            self._now(runs=False)

    def _now(self, *, runs: bool) -> None:
        if self._apart:
            signal.alarm(self._seconds if runs else OWN_SECONDS + GRACE)
            self._tell(runs)
