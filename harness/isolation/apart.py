"""Work in a process of its own, so that a poisoned GPU, a crash or a hang ends a step alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from harness.isolation.server import ServerGone, fork
from harness.isolation.values import give, take

T = TypeVar("T")


class Ended(RuntimeError):
    """The process ended, or did not answer in time, or what it ran raised; the message says how."""


def apart(function: Callable[..., Iterable[T]], *arguments: Any, timeout: float) -> Iterator[T]:
    """What a module's function yields, in a process of its own, within ``timeout`` seconds for each
    piece. The process ends with the iterator.

    Raises:
        Ended: see there.
    """
    try:
        process = fork("harness.isolation.apart:send")
    except ServerGone as error:
        raise Ended(str(error)) from None
    try:
        give(process.channel, (function, arguments))
        while True:
            if not process.channel.poll(timeout):
                raise Ended(f"no answer within {timeout:g} s")
            try:
                kind, value = take(process.channel)
            except EOFError:
                raise Ended(how_it_ended(process.end())) from None
            if kind == "end":
                return
            if kind == "raised":
                raise Ended(value)
            yield value
    finally:
        process.end()
        process.channel.close()


def send(fd: int) -> None:
    """Receive a function with its arguments over a connection, and send what it yields."""
    channel = Connection(fd)
    function: Callable[..., Iterable[Any]]
    function, arguments = take(channel)
    try:
        for value in function(*arguments):
            give(channel, ("value", value))
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        give(channel, ("raised", f"{type(error).__name__}: {text[0]}"))
        return
    give(channel, ("end", None))


def how_it_ended(code: int | None) -> str:
    """A process's exit code in words."""
    if code is not None and code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with status {code}"
