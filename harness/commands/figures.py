"""``python -m harness figures``: measure, and show that and recorded results as one HTML page."""

from __future__ import annotations

import argparse
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import Any

from harness.commands.options import OK, UsageError, output_folder, sharing
from harness.figures.results import ResultsError, read_results
from harness.support.progress import progress_to_stderr


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "figures",
        aliases=["report"],
        help="pictures of what was measured, as one HTML page",
        description="Measure for a minute or two; write a self-contained page, PNGs and the data.",
        parents=sharing("--device"),
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--out", type=output_folder, default=Path("figures"), metavar="DIR", help="default figures"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--from",
        dest="files",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="recorded results to show in place of those in fixtures: a tolerance ledger, a kill"
        " matrix, other projects' rules",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the figures, and return the exit code."""
    from harness.figures.measure import Plan, compute
    from harness.figures.publish import PAGE, publish, write_files

    device = arguments.device
    try:
        recorded = read_results(arguments.files)
    except ResultsError as error:
        raise UsageError(str(error)) from None
    progress = progress_to_stderr()
    figures = compute(Plan(), recorded, device, progress)
    command = ["python", "-m", "harness", "figures", "--device", device]
    if arguments.files:
        command += ["--from", *map(str, arguments.files)]
    commands = [shlex.join(command), "python -m harness repro"]
    # Nothing is written before this, so that an interrupt leaves the folder as it was.
    write_files(arguments.out, publish(figures, device, commands, progress))
    progress("done")
    page = arguments.out / PAGE
    print(page)
    if arguments.open and not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser could be opened; open {page} yourself", file=sys.stderr)
    return OK
