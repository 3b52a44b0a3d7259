"""Progress: how long-running work says what it is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]


def progress_to_stderr() -> Progress:
    """A function that prints a text and the seconds since now to stderr; on a terminal, always on
    the same line."""
    start = time.monotonic()
    end = "\r" if sys.stderr.isatty() else "\n"

    def progress(text: str) -> None:
        line = f"[{time.monotonic() - start:5.1f} s] {text}"
        print(f"{line[:99]:99}" if end == "\r" else line, end=end, file=sys.stderr, flush=True)

    return progress
