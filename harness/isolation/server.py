"""A server: a process that has imported torch, and forks others of itself in milliseconds.

Importing torch takes seconds, and a run may need many processes: one for each job, implementation
or target. The server imports what all of them need and runs no operation, so that no thread is lost
in a fork. What torch and Triton read when they are imported cannot be changed later, so each
environment has a server of its own. A server ends with the process that started it, however that
ends, and so does all that it forked.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import Pipe, reduction
from multiprocessing.connection import Connection, wait
from typing import Any

from harness.support.strict_json import from_text, to_line

# It changes with each test, and is read by nothing that is imported.
_CHANGES = {"PYTEST_CURRENT_TEST"}
_START = (
    "import json, sys; fd, sys.path[:] = json.loads(sys.argv[1]);"
    "from harness.isolation.server import serve; serve(fd)"
)
_servers: dict[frozenset[tuple[str, str]], _Server] = {}
_lock = threading.Lock()


class ServerGone(RuntimeError):
    """The server, or what it forked, is not there any more."""


class Forked:
    """A process in a session of its own, so that Ctrl-C does not reach it, and the ``channel`` to
    it."""

    def __init__(self, life: Connection, channel: Connection) -> None:
        self._life, self.channel = life, channel
        self._code: int | None = None
        self._ending = threading.Lock()

    def end(self) -> int | None:
        """Kill it with all of its group, wait until it is gone, and return its exit code, which is
        negative for a signal; None where nobody knows it. It may be called again, by any thread."""
        with self._ending:
            if not self._life.closed:
                with contextlib.suppress(OSError, EOFError):
                    self._life.send_bytes(b"end")
                    self._code = int(self._life.recv_bytes())
                self._life.close()
        return self._code

    @property
    def ended(self) -> bool:
        """Whether ``end`` was called."""
        return self._life.closed


def fork(
    function: str,
    *descriptors: int,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> Forked:
    """Call ``function``, of the form ``package.module:name``, in a process of its own. It gets the
    file descriptor of its end of a channel, and copies of the ``descriptors``. The process has this
    one's working directory, ``sys.path`` and environment, and the variables of ``environment`` as
    well; stdin and stdout are /dev/null, and stderr is the descriptor ``stderr``, or that of this
    process.

    Raises:
        ServerGone: where no process can be had.
    """
    variables = dict(os.environ) | dict(environment or {})
    order = {
        "function": function,
        "environment": variables,
        "path": sys.path,
        "folder": os.getcwd(),
        "descriptors": 1 + len(descriptors),
    }
    descriptors = (2 if stderr is None else stderr, *descriptors)
    with _lock:
        server = _server(variables)
        try:
            return server.fork(order, descriptors)
        except (OSError, EOFError):
            # It was killed, as by a system that is out of memory; another one may live.
            try:
                return _server(variables).fork(order, descriptors)
            except (OSError, EOFError):
                raise ServerGone("the process that starts others is gone") from None


def _server(variables: Mapping[str, str]) -> _Server:
    """The server of an environment; those of others that are idle end."""
    key = frozenset((k, v) for k, v in variables.items() if k not in _CHANGES)
    for other, server in list(_servers.items()):
        if server.foreign or server.closed or (other != key and server.idle):
            _servers.pop(other).close()
    if key not in _servers:
        _servers[key] = _Server(variables)
    return _servers[key]


class _Server:
    """What this process knows of a server."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._owner = os.getpid()
        self._channel, theirs = Pipe()
        arguments = to_line([theirs.fileno(), sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=dict(variables),
        )
        theirs.close()
        self._forked: list[Forked] = []

    @property
    def foreign(self) -> bool:
        """Whether another process started it, and this one is a fork of that process."""
        return os.getpid() != self._owner

    @property
    def closed(self) -> bool:
        return self._channel.closed

    @property
    def idle(self) -> bool:
        """Whether all that it forked has been ended."""
        self._forked = [forked for forked in self._forked if not forked.ended]
        return not self._forked

    def fork(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> Forked:
        life, their_life = Pipe()
        channel, their_end = Pipe()
        stderr, *others = descriptors
        try:
            self._channel.send_bytes(to_line(order).encode())
            with socket.fromfd(self._channel.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as s:
                reduction.sendfds(s, [their_life.fileno(), stderr, their_end.fileno(), *others])
            self._channel.recv_bytes()
        except BaseException:
            # What it would read next may be the rest of this.
            life.close()
            self.close()
            raise
        finally:
            their_life.close()
            their_end.close()
        self._forked.append(forked := Forked(life, channel))
        return forked

    def close(self) -> None:
        """End it, with all that it forked."""
        self._channel.close()
        if not self.foreign:
            self._process.wait()


@atexit.register
def _close_all() -> None:
    for server in _servers.values():
        server.close()


def serve(fd: int) -> None:
    """Fork what is ordered, and end it when it should, until whoever orders is gone."""
    with warnings.catch_warnings():
        # torch warns that there is no NumPy, which nothing here needs.
        warnings.simplefilter("ignore")
        importlib.import_module("harness.function.child")
    # In a fork nothing of the server is left on the stack, whatever the function raises.
    if (order := _serve(fd)) is not None:
        module, _, name = order["function"].partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        function(*order["descriptors"])


def _serve(fd: int) -> dict[str, Any] | None:
    """None at the end; in each fork, what it is to do."""
    orders = Connection(fd)
    lives: dict[Connection, int] = {}
    while True:
        for ready in wait([orders, *lives]):
            assert isinstance(ready, Connection)
            if ready is not orders:
                with contextlib.suppress(EOFError, OSError):
                    ready.recv_bytes()
                _end(ready, lives.pop(ready))
                continue
            try:
                order = from_text(orders.recv_bytes())
                with socket.fromfd(orders.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as s:
                    life, stderr, *given = reduction.recvfds(s, 2 + order["descriptors"])
            except (EOFError, OSError):
                for life_of, pid in lives.items():
                    _end(life_of, pid)
                return None
            pid = os.fork()
            if pid == 0:
                for connection in (orders, *lives, Connection(life)):
                    connection.close()
                _become(order, stderr)
                return order | {"descriptors": given}
            lives[Connection(life)] = pid
            for descriptor in (stderr, *given):
                os.close(descriptor)
            orders.send_bytes(b"done")


def _become(order: Mapping[str, Any], stderr: int) -> None:
    os.setsid()
    os.dup2(stderr, 2)
    os.close(stderr)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[:] = order["path"]


def _end(life: Connection, pid: int) -> None:
    """Kill a process with its group, and say what it ended with."""
    # Before it has a session of its own it has no group.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):
        life.send_bytes(str(code).encode())
    life.close()
