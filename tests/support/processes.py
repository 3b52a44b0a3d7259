"""Child processes: started, interrupted, watched until they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Long enough on any machine: only a process that should have ended and has not waits for so long.
PATIENCE = 120


class Preloaded:
    """Runs scripts in processes of their own that need not import torch; see ``preloaded``."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("preloaded.py")
        self._server = subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        *arguments: str | Path,
        folder: Path,
        path: Iterable[Path] = (),
        without: Iterable[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """``python *arguments`` in ``folder``; the first is a script, or ``-m``.

        ``path``: where it may import from, beside its own folder and what is installed;
        ``without``: modules that it cannot import.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as outputs:
            files = {name: Path(outputs, name) for name in ("stdout", "stderr")}
            order = {
                "arguments": [*map(str, arguments)],
                "folder": str(folder),
                "path": [*map(str, path)],
                "without": [*without],
                "environment": os.environ | {"OMP_NUM_THREADS": "1"},
                **{name: str(file) for name, file in files.items()},
            }
            print(json.dumps(order), file=self._server.stdin)
            code = int(self._server.stdout.readline())
            texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
        return subprocess.CompletedProcess(arguments, code, **texts)

    def close(self) -> None:
        """End the process; its forks have ended."""
        self._server.communicate()


@contextmanager
def interruptible() -> Iterator[None]:
    """Processes started herein take SIGINT as an interrupt.

    A shell starts its background jobs with SIGINT ignored, children inherit that, and Python then
    installs no handler of its own. A handler, unlike that, is not inherited.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def written(file: Path, alive: Callable[[], bool]) -> str:
    """The line that a process writes into ``file``, once it is there; ``alive`` says whether it
    still may come."""
    while not (file.exists() and file.read_text().endswith("\n")):
        assert alive(), f"ended without a line in {file}"
        time.sleep(0.01)
    return file.read_text()


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has asked about yet has."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return bool(state) and not state.startswith("Z")


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone, as soon as the system has seen to it."""
    end = time.monotonic() + PATIENCE
    while runs(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
