"""A process that a server forks, and what it tells of itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from harness.isolation.server import Forked, fork
from tests.support.processes import PATIENCE


def tell(fd: int) -> None:
    """What a forked process tells of itself; then it does what it is asked."""
    channel = Connection(fd)
    channel.send(
        (os.getpid(), os.getppid(), os.getcwd(), os.environ.get("GIVEN"), "torch" in sys.modules)
    )
    if (order := channel.recv()) == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(PATIENCE)
    raise AssertionError(order)


Said = tuple[int, int, str, str | None, bool]


@contextmanager
def forked(**environment: str) -> Iterator[tuple[Forked, Connection, Said]]:
    """A process that runs ``tell``, its channel and what it told."""
    process = fork("tests.support.forked:tell", environment=environment)
    try:
        yield process, process.channel, process.channel.recv()
    finally:
        process.end()
        process.channel.close()
