"""The processes behind a worker: a nursery, which has imported what every run needs and nothing of
the user's, and its child, which loads the target and runs cases."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import mmap
import os
import resource
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from harness.case.program import first_case
from harness.function.limits import MemoryLimit, TimeLimit
from harness.function.outcome import Outcome
from harness.function.run import LocalRunner, poisoned
from harness.function.spec import TargetError, TargetSpec
from harness.support.failure import described
from harness.support.strict_json import to_line
from harness.verdict import Verdict

MARK = 12  # digits of the number of a call
# The nursery writes it to stderr behind all that a child which died has written there.
END_OF_STDERR = b"\0the end of a child's stderr\0"
# Why a child leaves by itself, which it writes into memory that it shares with the nursery, since
# the target may end it with any status.
_AT_WORK, _DONE, _SPOILT = 0, 1, 2


def write_mark(fd: int, number: int) -> None:
    """Write the number of a call into the file that tells it to the worker."""
    os.pwrite(fd, str(number).rjust(MARK).encode(), 0)


def nursery(fd: int, mark: int) -> None:
    """Fork a child, and another one whenever it dies, until it ends because the parent is gone."""
    channel = Connection(fd)
    spec = TargetSpec.from_json(channel.recv_bytes().decode())
    leaves = mmap.mmap(-1, 1)
    while True:
        leaves[0] = _AT_WORK
        pid = os.fork()
        if pid == 0:
            _child(channel, spec, leaves, mark)
        status = os.waitpid(pid, 0)[1]
        if leaves[0] == _DONE:
            return
        if leaves[0] == _AT_WORK:
            os.write(2, END_OF_STDERR)
            channel.send_bytes(to_line({"died": status}).encode())


def _child(channel: Connection, spec: TargetSpec, leaves: mmap.mmap, mark: int) -> None:
    """Load the target and run cases; then leave the process, having said why in ``leaves``: the
    target cannot be loaded or the parent is gone, or the process is spoilt and needs a
    successor."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.enable()

    def send(reply: dict[str, Any]) -> None:
        channel.send_bytes(to_line(reply).encode())

    def leave(why: int) -> NoReturn:
        leaves[0] = why
        os._exit(0)

    memory, clock = MemoryLimit(spec.device), TimeLimit(lambda runs: send({"runs": runs}))

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        with clock(), memory():
            yield

    def begun(number: int) -> None:
        write_mark(mark, number)
        clock.again()

    try:
        with memory():
            runner = LocalRunner(spec, begun=begun, around=limited)
    except TargetError as error:
        send({"refused": str(error)})
        leave(_DONE)
    except Exception as error:
        send({"failed": [described(error), "".join(traceback.format_exception(error))]})
        leave(_DONE)
    send({"pid": os.getpid(), "facts": dataclasses.asdict(runner.facts)})
    while True:
        try:
            case, limit, known, flag = channel.recv()
        except EOFError:
            leave(_DONE)
        memory.begin()
        clock.begin(first_case(case), limit)
        spoilt, failed = False, None
        try:
            if known:
                outcome = runner.diagnosed(case, known, brief=flag)
            else:
                outcome = runner.run(case, last_alone=flag)
        except MemoryError:
            outcome, spoilt = Outcome.found(Verdict.OOM, "left no memory to judge its result"), True
        except Exception as error:
            # What a target broke in the process may raise only while its result is judged, so
            # the worker finds out whose fault it is.
            failed, spoilt = [described(error), "".join(traceback.format_exception(error))], True
        clock.end()
        spoilt = spoilt or poisoned(spec.device)
        send({"failed": failed} if failed else {"outcome": outcome.to_values()})
        if spoilt:
            leave(_SPOILT)
