"""``python -m harness``: the command line.

Exit codes: 0 all right; 1 any verdict but OK or UNSUPPORTED; 2 usage, or nothing could be judged;
130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from harness.case import DTYPES, CaseError, DecodeCase, InvalidCase
from harness.commands import check, faults, gate, record, report
from harness.commands.shared import (
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    device_or_error,
)
from harness.support.files import UnwritableFile, check_writable, write_atomically
from harness.support.progress import progress_to_stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    arguments = _parser().parse_args(argv)
    # flex_attention warns that it is called eagerly, which is on purpose here; torch, when it is
    # imported, that there is no NumPy, which nothing here needs.
    for message in ("flex_attention called without torch.compile", "Failed to initialize NumPy"):
        warnings.filterwarnings("ignore", message=message)
    try:
        return arguments.run(arguments)
    except (UsageError, CaseError, InvalidCase, UnwritableFile) as error:
        print(f"harness {arguments.command}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Correctness harness for KV-cache decoding with FlexAttention.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    repro = commands.add_parser(
        "repro",
        help="run a bug report or a case and say which side is wrong",
        description="Run the report gpt-fast-233, or any case, on all paths.",
    )
    repro.set_defaults(run=_repro)
    repro.add_argument(
        "case", nargs="?", default="gpt-fast-233", help="gpt-fast-233 (default) or a case id"
    )
    repro.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    repro.add_argument("--dtype", help=f"{' '.join(DTYPES)} (default bfloat16)")
    repro.add_argument("--seed", help="of the tensors (default 0)")
    repro.add_argument("--position", help="slot of the query (default 99); P+1 slots are filled")
    repro.add_argument("--cache-len", help="slots allocated (default 2048)")
    repro.add_argument("--compile", action="store_true", help="compile the attention calls")
    repro.add_argument("--json", type=Path, metavar="FILE", help="write the answer as JSON")
    repro.add_argument(
        "--script", type=Path, metavar="FILE", help="write a script that needs torch alone"
    )
    keep = commands.add_parser(
        "keep",
        help="keep a case in fixtures/cases, to be run first by the tests",
        description="Write fixtures/cases/NAME.json; run it where the fixtures folder is.",
    )
    keep.set_defaults(run=_keep)
    keep.add_argument("name", help="lower-case letters, digits and dashes")
    keep.add_argument("case", help="a case id")
    keep.add_argument("--source", required=True, help="where the case comes from")
    keep.add_argument("--path", default="", help="the decode path it speaks of (default: all)")
    for command in (check, faults, gate, record, report):
        command.add(commands)
    return parser


def _report_case(arguments: argparse.Namespace) -> DecodeCase:
    """The report's case with the options applied, through the case's own text checks."""
    parts = {"S": "2048", "pos": "99", "H": "32", "D": "128", "dtype": "bf16"}
    options = {
        "S": arguments.cache_len,
        "pos": arguments.position,
        "dtype": arguments.dtype,
        "seed": arguments.seed,
        "mode": "compiled" if arguments.compile else None,
    }
    parts |= {key: value for key, value in options.items() if value is not None}
    for option, key in (("--position", "pos"), ("--cache-len", "S"), ("--dtype", "dtype")):
        if "," in parts[key] or "=" in parts[key] or (key == "pos" and not parts[key].isdigit()):
            raise UsageError(f"{option}: {parts[key]!r} is not one value of {key}")
    return DecodeCase.from_text(",".join(f"{key}={value}" for key, value in parts.items()))


def _keep(arguments: argparse.Namespace) -> int:
    from harness.case.kept import FOLDER, KeptCase, keep
    from harness.paths import PATHS

    if arguments.path and arguments.path not in PATHS:
        raise UsageError(f"--path: {arguments.path!r} is not one of {' '.join(PATHS)}")
    case = DecodeCase.from_text(arguments.case)
    if (FOLDER / f"{arguments.name}.json").exists():
        raise UsageError(f"name: {FOLDER / arguments.name}.json is there already")
    print(keep(KeptCase(arguments.name, case, arguments.source, arguments.path)))
    return OK


def _repro(arguments: argparse.Namespace) -> int:
    from harness.issue233.answer import REPORT_ID, answer_case, answer_report
    from harness.issue233.text import render, to_json
    from harness.script.case_script import case_script, report_script

    device = device_or_error(arguments.device)
    for path in (arguments.json, arguments.script):
        if path is not None:
            check_writable(path)
    progress = progress_to_stderr()
    if arguments.case == REPORT_ID:
        case = _report_case(arguments)
        answer, script = answer_report(case, device, progress), report_script
    else:
        for option in ("dtype", "seed", "position", "cache_len"):
            if getattr(arguments, option) is not None:
                flag = "--" + option.replace("_", "-")
                raise UsageError(f"{flag}: goes with {REPORT_ID}; put it into the case id instead")
        case = DecodeCase.from_text(arguments.case)
        if arguments.compile:
            case = case.replace(mode="compiled")
        answer, script = answer_case(case, device, progress), case_script
    progress("done")
    print(render(answer), end="")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(answer))
    if arguments.script is not None:
        write_atomically(arguments.script, script(case, device))
    if answer.nothing_judged:
        return USAGE
    return NOT_OK if answer.unexpected else OK
