"""Interrupts: Ctrl-C, SIGTERM and the end of a time limit, raised in the main thread where they are
not lost.

An exception that a signal raises is lost where nobody can catch it: in a callback of the garbage
collector or of a weak reference, and in ``__del__``. A library that is imported may swallow it too,
or be left in halves. So none is raised during an import, and one that was lost is raised again.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SOON = 0.01
# An import that takes longer is interrupted all the same.
_PATIENCE = 30.0
# After so many seconds an end of the time that somebody swallowed is raised again.
_AGAIN = 5.0


class OutOfTime(KeyboardInterrupt):
    """A time limit is over. Libraries know that they must let an interrupt pass."""


@dataclass
class _State:
    """What is to be raised as soon as it may be, since when, and when the time limit is over; when
    the command began."""

    waits: type[BaseException] | None = None
    since: float = 0.0
    due: float = math.inf
    began: float | None = None


_state = _State()


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Here SIGINT and SIGTERM raise KeyboardInterrupt, once it can arrive; a second one does so at
    once. One that this process ignores stays ignored."""
    with contextlib.ExitStack() as stack:
        _state.began = time.monotonic()
        stack.callback(setattr, _state, "began", None)
        stack.enter_context(_alarms())
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.enter_context(_handled(number, _on_signal))
        yield


def began() -> float:
    """When ``interrupts`` began, before all imports, by ``time.monotonic``; or else now."""
    return time.monotonic() if _state.began is None else _state.began


def interrupted(error: BaseException | None) -> bool:
    """Whether an exception came of an interrupt: a library that is interrupted may fail in its
    cleaning up, with whatever exception."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Here OutOfTime is raised after so many seconds; outside of the main thread, where no signal
    arrives, never.

    Raises:
        OutOfTime: see there.
    """
    if threading.current_thread() is not threading.main_thread() or seconds == math.inf:
        yield
        return
    with _alarms():
        _state.due = time.monotonic() + seconds
        _arm()
        try:
            yield
        finally:
            _state.due = math.inf
            if _state.waits is OutOfTime:
                _state.waits = None
            _arm()


@contextlib.contextmanager
def _handled(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _alarms() -> Iterator[None]:
    """Whatever waits to be raised is tried again by the clock of this process."""
    if signal.getsignal(signal.SIGALRM) is _on_alarm:
        yield
        return
    hook = sys.unraisablehook

    def lost(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _wait(type(unraisable.exc_value))
        else:
            hook(unraisable)

    with _handled(signal.SIGALRM, _on_alarm):
        sys.unraisablehook = lost
        try:
            yield
        finally:
            sys.unraisablehook = hook
            _state.waits = None
            signal.setitimer(signal.ITIMER_REAL, 0)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _state.waits is None and _importing(frame):
        _wait(KeyboardInterrupt)
        return
    _state.waits = None
    raise KeyboardInterrupt


def _on_alarm(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.waits is None and now >= _state.due:
        _state.waits, _state.since, _state.due = OutOfTime, now, now + _AGAIN
    wanted = _state.waits
    if wanted is not None and (now - _state.since > _PATIENCE or not _importing(frame)):
        _state.waits = None
        _arm()
        raise wanted
    _arm()


def _wait(wanted: type[BaseException]) -> None:
    _state.waits, _state.since = wanted, time.monotonic()
    _arm()


def _arm() -> None:
    left = _SOON if _state.waits is not None else _state.due - time.monotonic()
    # 0 would be no alarm at all.
    signal.setitimer(signal.ITIMER_REAL, 0 if left == math.inf else max(left, _SOON))


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
