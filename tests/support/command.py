"""``python -m harness``, in this process."""

from __future__ import annotations

from harness import cli
from tests.support import TARGETS


def command(*arguments: str) -> int:
    """Its exit code."""
    try:
        return cli.main(arguments)
    except SystemExit as exit:  # argparse's own usage errors
        assert isinstance(exit.code, int)
        return exit.code


def check(name: str, *arguments: str) -> int:
    """Check a function among the targets, without a worker to start."""
    return command("check", f"{TARGETS}:{name}", "--no-isolation", *arguments)
