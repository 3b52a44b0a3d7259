"""What the subcommands share: exit codes, errors of usage, devices, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

OK, NOT_OK, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(ValueError):
    """A wrong command line; the message names the option and what is allowed."""


def device_or_error(name: str) -> str:
    """A device that torch can use here.

    Raises:
        UsageError: for an unknown device or CUDA without CUDA.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: {name!r} is not one of cpu cuda cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: {name!r} is not one of cpu cuda cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device: {name!r} asked for, but torch sees no CUDA device; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device: torch sees {torch.cuda.device_count()} CUDA devices")
    return name


def progress_to_stderr() -> Callable[[str], None]:
    """Print what is being done and since when; on a terminal, on one line."""
    start = time.monotonic()
    end = "\r" if sys.stderr.isatty() else "\n"

    def progress(text: str) -> None:
        line = f"[{time.monotonic() - start:5.1f} s] {text}"
        print(f"{line[:99]:99}" if end == "\r" else line, end=end, file=sys.stderr, flush=True)

    return progress
