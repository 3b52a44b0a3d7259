"""What every subcommand shares: exit codes, usage errors, devices."""

from __future__ import annotations

from harness.case import DTYPES

OK, NOT_OK, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(ValueError):
    """A wrong command line; the message names the option and what is allowed."""


def dtypes_or_error(text: str) -> list[str]:
    """Dtype names, separated by commas.

    Raises:
        UsageError: for an unknown one, or none.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in DTYPES:
            raise UsageError(f"--dtypes: {name!r} is not one of {' '.join(DTYPES)}")
    return list(dict.fromkeys(names))


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
