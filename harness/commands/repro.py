"""``python -m harness repro``: answer the bug report gpt-fast#233, or run a case on all paths."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.case import DTYPES, DecodeCase
from harness.commands.kinds import REPORT, refuse_other_kinds
from harness.commands.options import NOT_OK, OK, USAGE, UsageError, sharing
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr

if TYPE_CHECKING:
    from harness.issue233.answer import Answer


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "repro",
        help="run a bug report or a case and say which side is wrong",
        description="Run the report gpt-fast-233, or any case, on all paths.",
        parents=sharing("--device", "--json", "--script", "--kernels", "--multiprocessors"),
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "case", nargs="?", default="gpt-fast-233", help="gpt-fast-233 (default) or a case id"
    )
    parser.add_argument("--dtype", help=f"{' '.join(DTYPES)} (default bfloat16)")
    parser.add_argument("--seed", help="of the tensors (default 0)")
    parser.add_argument("--position", help="slot of the query (default 99); P+1 slots are filled")
    parser.add_argument("--cache-len", help="slots allocated (default 2048)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the attention calls; so does --kernels"
    )


def _report_case(arguments: argparse.Namespace) -> DecodeCase:
    """The report's case with the options applied, read as a case id so that it is checked."""
    parts = {"S": "2048", "pos": "99", "H": "32", "D": "128", "dtype": "bf16"}
    options = {
        "S": arguments.cache_len,
        "pos": arguments.position,
        "dtype": arguments.dtype,
        "seed": arguments.seed,
        "mode": "compiled" if _compiled(arguments) else None,
        "kernels": arguments.kernels,
    }
    parts |= {key: value for key, value in options.items() if value is not None}
    for option, key in (("--position", "pos"), ("--cache-len", "S"), ("--dtype", "dtype")):
        if "," in parts[key] or "=" in parts[key] or (key == "pos" and not parts[key].isdigit()):
            raise UsageError(f"{option}: {parts[key]!r} is not one value of {key}")
    return DecodeCase.from_text(",".join(f"{key}={value}" for key, value in parts.items()))


def _named_case(arguments: argparse.Namespace) -> DecodeCase:
    """The case whose id is given, compiled as the options say."""
    for option in ("dtype", "seed", "position", "cache_len"):
        if getattr(arguments, option) is not None:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag}: goes with {REPORT}; put it into the case id instead")
    case = DecodeCase.from_text(arguments.case)
    if _compiled(arguments):
        case = case.replace(mode="compiled")
    return case if arguments.kernels == "cpp" else case.replace(kernels=arguments.kernels)


def _compiled(arguments: argparse.Namespace) -> bool:
    return bool(arguments.compile or arguments.kernels != "cpp")


def run(arguments: argparse.Namespace) -> int:
    """Answer the report or run the case, and return the exit code."""
    refuse_other_kinds("repro", arguments.case)
    if arguments.script is not None and "triton" in (arguments.kernels + arguments.case):
        raise UsageError("--script: what needs torch alone cannot interpret Triton kernels")
    of_report = arguments.case == REPORT
    case = _report_case(arguments) if of_report else _named_case(arguments)

    from harness.issue233.answer import answer_case, answer_report
    from harness.issue233.text import to_json
    from harness.script.case_script import case_script, report_script

    device, progress = arguments.device, progress_to_stderr()
    answers = (answer_report if of_report else answer_case)(case, device, progress)
    script = report_script if of_report else case_script
    answer = _printed(answers)
    progress("done")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(answer))
    if arguments.script is not None:
        write_atomically(arguments.script, script(case, device))
    if answer.nothing_judged:
        return USAGE
    return NOT_OK if answer.unexpected else OK


def _printed(answers: Iterator[Answer]) -> Answer:
    """The complete answer; what is known of it is printed as soon as it is, also to a pipe."""
    from harness.issue233.text import lines

    printed = 0
    for answer in answers:
        new = [*lines(answer)][printed:]
        printed += len(new)
        if new:
            print(*new, sep="\n", flush=True)
    return answer
