"""Scripts that show a defect: exit code 1 while it is there, 0 once it is gone. Each runs in a
process of its own, and what its ending says is read here alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

# Of what a script prints, the last so many bytes are kept of each stream.
_KEPT = 2**16
# A process that left the script's group may hold a pipe open; what it prints is not waited for.
_DRAIN = 1.0
# Signals by which a defect ends a process; others come from outside, for lack of memory for one.
_DEFECTS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})
# Python prints the second form for a file that it cannot parse.
_UNCAUGHT = re.compile(
    r"^Traceback \(most recent call last\):$|^(Syntax|Indentation|Tab)Error: ", re.M
)

_running: set[int] = set()


class Showing(StrEnum):
    """What a script says about its defect."""

    SHOWS = "shows"
    GONE = "gone"
    BROKEN = "could not run"
    HANGS = "hangs"


@dataclass(frozen=True)
class Ran:
    """How a script ended: with exit ``code``, a signal as a negative number, or None where the time
    limit ended it, and the last of what it printed."""

    code: int | None
    stdout: str = ""
    stderr: str = ""

    @property
    def showing(self) -> Showing:
        """Code 1, or a signal by which a defect ends a process, shows it, and 0 does not. An
        exception that nobody caught ends with 1 as well, and says nothing about the defect."""
        if self.code is None:
            return Showing.HANGS
        if self.code == 0:
            return Showing.GONE
        by_code = self.code == 1 and not self.raised
        return Showing.SHOWS if by_code or self.ended in _DEFECTS else Showing.BROKEN

    @property
    def raised(self) -> str:
        """The last line of an exception that nobody caught, or ""."""
        return _last(self.stderr) if _UNCAUGHT.search(self.stderr) else ""

    @property
    def ended(self) -> str:
        """The exit code or the signal's name in words."""
        if self.code is None:
            return "no exit code"
        return signal.Signals(-self.code).name if self.code < 0 else str(self.code)

    @property
    def says(self) -> str:
        """The last line that the script printed; of one that could not run, on stderr."""
        if self.showing is Showing.BROKEN:
            return _last(self.stderr) or _last(self.stdout)
        # What sys.exit says goes to stderr, where there may be warnings as well.
        return _last(self.stdout) or _last(self.stderr)


def run_script(
    script: Path,
    *arguments: str,
    seconds: float,
    python: Path | None = None,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ran:
    """Run a script with a Python, by default this one, within a time limit, in a folder, with these
    variables beside those of this process. Whatever it started ends with it."""
    environment = os.environ | dict(variables or {})
    if python is not None:
        # Whatever this process imports from is not for another Python.
        environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [str(python or sys.executable), "-W", "ignore", str(script), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    _running.add(process.pid)
    try:
        streams = [_Tail(stream) for stream in (process.stdout, process.stderr) if stream]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        code = process.poll()
    finally:
        _end(process.pid)
        process.wait()
        _running.discard(process.pid)
    return Ran(code, *(stream.text() for stream in streams))


def end_scripts() -> None:
    """End all scripts that run in threads of this process."""
    for pid in tuple(_running):
        _end(pid)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Tail:
    """Reads a stream to its end, so that nobody who writes to it waits, and keeps the last part."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._kept = bytearray()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while block := os.read(stream.fileno(), _KEPT):
                self._kept += block
                del self._kept[:-_KEPT]

    def text(self) -> str:
        """What was kept, once the stream has ended, or a moment later."""
        self._reader.join(_DRAIN)
        return bytes(self._kept).decode(errors="replace")


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
