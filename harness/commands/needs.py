"""What a command line needs beyond torch: the extra of each command and option."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from harness.commands.options import interprets
from harness.support import extras


def missing(arguments: argparse.Namespace) -> str | None:
    """What a command line needs that is not installed, with the remedy; None where nothing lacks.

    It is asked before anything heavy is imported. A cache class, which needs the extra that drawn
    programs need, is known for one only once ``check`` has loaded it.
    """
    for what, extra in _needed(arguments):
        if reason := extras.missing(extra):
            return f"{what}: {reason}" if what else reason
    return None


def _needed(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What needs an extra, "" for the command as such, and the extra."""
    command = arguments.command
    if command in ("gate", "hunt") or (command == "faults" and not arguments.list):
        yield "", "strategies"
    if command == "bench" and "verdicts" in (arguments.tables or "verdicts"):
        yield "verdicts", "strategies"
    if command == "hunt" and arguments.scheduler is not None:
        yield "--scheduler", "dask"
    if command in ("figures", "report"):
        yield "", "figures"
    if command == "check" and arguments.plot is not None:
        yield "--plot", "figures"
    if command == "check" and arguments.triton:
        yield "--triton", "triton"
    if interprets(arguments) or (command == "hunt" and "triton" in arguments.kernels):
        yield "--kernels triton", "triton"
    # What follows a project is read by the command, which asks again.
    if command == "audit" and arguments.target == "transformers" and not arguments.rest:
        yield "transformers", "transformers"
