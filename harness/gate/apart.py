"""Work in a process of its own, so that a poisoned GPU, a crash or a hang ends a step alone."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from harness.case import DTYPES
from harness.ledger.entries import Entry
from harness.ledger.measure import measure_all
from harness.paths import PATHS
from harness.support.threads import one_thread
from harness.verdict import Finding, contract

T = TypeVar("T")


class Ended(RuntimeError):
    """The process ended, or did not answer in time, or what it ran raised; the message says how."""


def apart(function: Callable[..., Iterable[T]], *arguments: Any, timeout: float) -> Iterator[T]:
    """What a module's function yields, in a process of its own, within ``timeout`` seconds for each
    piece. The process ends with the iterator.

    Raises:
        Ended: see there.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            if not ours.poll(timeout):
                raise Ended(f"no answer within {timeout:g} s")
            try:
                kind, value = ours.recv()
            except EOFError:
                process.join()
                raise Ended(_how(process.exitcode)) from None
            if kind == "end":
                return
            if kind == "raised":
                raise Ended(value)
            yield value
    finally:
        process.kill()
        process.join()
        ours.close()


def _send(
    channel: Connection, function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
) -> None:
    # Ctrl-C is the parent's, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for value in function(*arguments):
            channel.send(("value", value))
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        channel.send(("raised", f"{type(error).__name__}: {text[0]}"))
        return
    channel.send(("end", None))


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with status {code}"


def broken_promises(path: str, device: str) -> Iterator[dict[str, Finding]]:
    """The promises that a path breaks, as ``contract.broken`` gives them."""
    yield contract.broken(PATHS[path], device)


def eager_entries(device: str) -> Iterator[Entry]:
    """The ledger's eager entries, measured with one thread."""
    with one_thread():
        yield from measure_all(device, DTYPES, ["eager"], lambda text: None)
