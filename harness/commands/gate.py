"""``python -m harness gate``: all checks before a merge, with JUnit, JSON and Markdown."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from harness.case.kept import FOLDER
from harness.commands.options import (
    INCOMPLETE,
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    duration,
    input_file,
    output_file,
    sharing,
)
from harness.commands.record import read_or_error
from harness.ledger.entries import ledger_file
from harness.support.files import write_atomically
from harness.support.interrupts import began
from harness.support.progress import progress_to_stderr


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "gate",
        help="run everything worth running before a merge that touches attention",
        description="Proof that this run can fail, kept cases, the compile contract, probes, the"
        " ledger, known failures, then drawn cases until the time is up. Needs fixtures/ here.",
        parents=sharing(
            "--device", "--seed", "--json", "--no-isolation", "--kernels", "--multiprocessors"
        ),
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--budget", type=duration, default="10m", help="of time: 90s, 10m (default), 2h"
    )
    parser.add_argument(
        "--accept-incomplete",
        action="store_true",
        help="exit with 0, not 3, where nothing failed but there was no time for all of it",
    )
    what = "what a change touches comes first: files of torch, or of this project"
    parser.add_argument("--changed", nargs="+", default=[], metavar="PATH", help=what)
    parser.add_argument("--against", type=input_file, metavar="LEDGER", help="another ledger file")
    parser.add_argument("--junit", type=output_file, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--markdown", type=output_file, metavar="FILE", help="write the summary")


def run(arguments: argparse.Namespace) -> int:
    """Run the gate and return the exit code."""
    start = began()
    device = arguments.device
    if not FOLDER.is_dir():
        raise UsageError(f"{FOLDER}: not here; run the gate in the project's folder")
    against = arguments.against or ledger_file(device)
    ledger = read_or_error(against) if against.exists() else None

    import torch

    from harness.gate import text as gate_report
    from harness.gate.steps import Gate

    # Products of float32 are computed in float32, not in TF32, on every machine.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    gate = Gate(
        device,
        arguments.budget,
        arguments.seed,
        ledger,
        progress_to_stderr(),
        isolated=not arguments.no_isolation,
        kernels=arguments.kernels,
        changed=tuple(arguments.changed),
        start=start,
    )
    interrupted = False
    try:
        gate.run()
    except KeyboardInterrupt:
        interrupted = True
    words = ["python", "-m", "harness", "gate", "--device", device]
    words += ["--budget", f"{arguments.budget:g}s", "--seed", str(arguments.seed)]
    if arguments.kernels != "cpp":
        words += ["--kernels", arguments.kernels, "--multiprocessors", arguments.multiprocessors]
    words += ["--accept-incomplete"] if arguments.accept_incomplete else []
    words += ["--changed", *arguments.changed] if arguments.changed else []
    words += ["--against", str(arguments.against)] if arguments.against else []
    command = shlex.join(words)
    written = {
        "junit": gate_report.to_junit,
        "json": gate_report.to_json,
        "markdown": gate_report.to_markdown,
    }
    # What is known is told first: the disk may be full.
    print(gate_report.to_markdown(gate, command, interrupted), end="", flush=True)
    for name, text_of in written.items():
        file = getattr(arguments, name)
        if file is not None:
            write_atomically(file, text_of(gate, command, interrupted))
    if interrupted:
        return INTERRUPTED
    if gate.failures:
        return NOT_OK
    if not any(step.counted for step in gate.steps):
        return USAGE
    return INCOMPLETE if gate.cut and not arguments.accept_incomplete else OK
