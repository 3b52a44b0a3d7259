"""``gate``: one exit code before a merge, with JUnit, JSON and a Markdown summary."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from harness.case.kept import FOLDER
from harness.commands.record import read_or_error
from harness.commands.shared import (
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    device_or_error,
)
from harness.ledger.entries import ledger_file
from harness.support.files import check_writable, write_atomically
from harness.support.progress import progress_to_stderr

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "gate",
        help="run everything worth running before a merge that touches attention",
        description="Kept cases, the compile contract, probes, proof that this run can fail, the"
        " ledger, known failures, then drawn cases until the time is up. Needs fixtures/ here.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--budget", default="10m", help="of time: 90s, 10m (default), 2h")
    parser.add_argument("--against", type=Path, metavar="LEDGER", help="another ledger file")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary")
    parser.add_argument("--no-isolation", action="store_true", help="run paths in this process")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--budget: {text!r} is not a time such as 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def run(arguments: argparse.Namespace) -> int:
    """Run the gate and return the exit code."""
    seconds = _seconds(arguments.budget)
    device = device_or_error(arguments.device)
    if arguments.seed < 0:
        raise UsageError(f"--seed: {arguments.seed} is not a whole number >= 0")
    files = {
        "junit": arguments.junit,
        "json": arguments.json,
        "markdown": arguments.markdown,
    }
    for file in files.values():
        if file is not None:
            check_writable(file)
    if not FOLDER.is_dir():
        raise UsageError(f"{FOLDER}: not here; run the gate in the project's folder")
    against = arguments.against or ledger_file(device)
    if arguments.against is not None and not against.exists():
        raise UsageError(f"--against: {against}: there is no such file")
    ledger = read_or_error(against) if against.exists() else None
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise UsageError("needs Hypothesis: pip install 'flexdecode-harness[strategies]'") from None

    import torch

    from harness.gate import text as gate_report
    from harness.gate.steps import Gate

    # Said aloud and the same everywhere: products of float32 are float32's.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    gate = Gate(
        device,
        seconds,
        arguments.seed,
        ledger,
        progress_to_stderr(),
        isolated=not arguments.no_isolation,
    )
    interrupted = False
    try:
        gate.run()
    except KeyboardInterrupt:
        interrupted = True
    words = ["python", "-m", "harness", "gate", "--device", device]
    words += ["--budget", arguments.budget, "--seed", str(arguments.seed)]
    words += ["--against", str(arguments.against)] if arguments.against else []
    command = shlex.join(words)
    written = {
        "junit": gate_report.to_junit,
        "json": gate_report.to_json,
        "markdown": gate_report.to_markdown,
    }
    for name, file in files.items():
        if file is not None:
            write_atomically(file, written[name](gate, command, interrupted))
    print(gate_report.to_markdown(gate, command, interrupted), end="")
    if interrupted:
        return INTERRUPTED
    if gate.failures:
        return NOT_OK
    return OK if any(step.counted for step in gate.steps) else USAGE
