"""The command line ``python -m harness``.

Its exit codes are 0 where all is right, 1 for any verdict but OK or UNSUPPORTED, 2 for wrong usage
or where nothing could be judged, 3 for what is incomplete or was seen and not settled, 4 where the
harness itself failed, which is no verdict, and 130 where it is interrupted.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence

from harness.case import CaseError, InvalidCase
from harness.commands import (
    audit,
    bench,
    check,
    faults,
    figures,
    gate,
    hunt,
    keep,
    needs,
    record,
    repro,
    versions,
)
from harness.commands.options import (
    FAILED,
    INCOMPLETE,
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    Parser,
    UsageError,
    in_another_process,
)
from harness.support.failure import described
from harness.support.files import UnwritableFile
from harness.support.interrupts import interrupted
from harness.support.streams import lasting_streams

__all__ = ["FAILED", "INCOMPLETE", "INTERRUPTED", "NOT_OK", "OK", "USAGE", "entry", "main"]

_FAILURE = (
    "the harness itself failed, which is no verdict: {}; please report it where you got"
    " flexdecode-harness from, with what --traceback prints"
)


def entry() -> int:
    """The command line with the process's own words and streams; its exit code."""
    with lasting_streams() as lost:
        code = main()
    for what in lost:
        print(f"harness: error: {what}", file=sys.stderr)
    return USAGE if lost else code


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = f" {words[0]}" if words and not words[0].startswith("-") else ""
    # flex_attention warns where it is called eagerly, which is on purpose here. torch warns, when
    # it is imported, that there is no NumPy, which nothing here needs.
    for message in ("flex_attention called without torch.compile", "Failed to initialize NumPy"):
        warnings.filterwarnings("ignore", message=message)
    try:
        parser = _parser()
        if not words:
            print(parser.commands(), end="")
            return USAGE
        arguments = parser.parse_args(words)
        if reason := needs.missing(arguments):
            raise UsageError(reason)
        code = in_another_process(arguments, words)
        return arguments.run(arguments) if code is None else code
    except (UsageError, CaseError, InvalidCase, UnwritableFile) as error:
        print(f"harness{command}: error: {error}", file=sys.stderr)
        return USAGE
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            print("\ninterrupted", file=sys.stderr)
            return INTERRUPTED
        if "--traceback" in words:
            traceback.print_exc()
        print(f"harness{command}: {_FAILURE.format(described(error))}", file=sys.stderr)
        return FAILED


def _parser() -> Parser:
    parser = Parser(
        prog="python -m harness",
        description="Correctness harness for KV-cache decoding with FlexAttention.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    every = (repro, keep, check, audit, faults, gate, hunt, versions, record, bench, figures)
    for command in every:
        command.add(commands)
    for one in dict.fromkeys(commands.choices.values()):
        one.add_argument(
            "--traceback", action="store_true", help="where the harness itself fails, show where"
        )
    return parser
