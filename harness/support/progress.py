"""How long work says what it is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]


def progress_to_stderr() -> Progress:
    """Print what is being done and since when; on a terminal, on one line."""
    start = time.monotonic()
    end = "\r" if sys.stderr.isatty() else "\n"

    def progress(text: str) -> None:
        line = f"[{time.monotonic() - start:5.1f} s] {text}"
        print(f"{line[:99]:99}" if end == "\r" else line, end=end, file=sys.stderr, flush=True)

    return progress
