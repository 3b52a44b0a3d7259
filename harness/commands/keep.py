"""``python -m harness keep``: keep a case as a file, so that the tests run it first."""

from __future__ import annotations

import argparse
from typing import Any

from harness.case import DecodeCase
from harness.case.kept import FOLDER, KeptCase, keep
from harness.commands.options import OK, UsageError


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "keep",
        help="keep a case in fixtures/cases, to be run first by the tests",
        description="Write fixtures/cases/NAME.json; run it where the fixtures folder is.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", help="lower-case letters, digits and dashes")
    parser.add_argument("case", help="a case id")
    parser.add_argument("--source", required=True, help="where the case comes from")
    parser.add_argument("--path", default="", help="the decode path it speaks of (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Write the case, print the file's name, and return the exit code."""
    file = FOLDER / f"{arguments.name}.json"
    if file.exists():
        raise UsageError(f"name: {file} is there already")
    if not FOLDER.is_dir():
        raise UsageError(f"{FOLDER}: not here; keep a case in the project's folder")
    from harness.paths import PATHS

    if arguments.path and arguments.path not in PATHS:
        raise UsageError(f"--path: {arguments.path!r} is not one of {' '.join(PATHS)}")
    case = DecodeCase.from_text(arguments.case)
    print(keep(KeptCase(arguments.name, case, arguments.source, arguments.path)))
    return OK
