"""``check`` for a cache class: search for a program on which it fails, or run the one that is
named."""

from __future__ import annotations

import argparse
import sys

from harness.case.program import Program
from harness.commands.options import INTERRUPTED, NOT_OK, OK, USAGE, UsageError, draws_nothing
from harness.function.item import Runner
from harness.function.program_text import render, to_json
from harness.function.programs import check_class
from harness.function.spec import TargetSpec
from harness.script.program_script import SHOWN, program_script
from harness.support import extras
from harness.support.files import write_atomically
from harness.support.progress import Progress

_PROGRAMS, _THOROUGH = 200, 1000


def check_programs(
    arguments: argparse.Namespace, spec: TargetSpec, runner: Runner, progress: Progress
) -> int:
    """Check the class that the runner has loaded and return the exit code."""
    named = _named(arguments)
    abilities = runner.facts.abilities
    assert abilities is not None
    if arguments.steps is not None and named is not None and named.calls:
        draws_nothing(arguments, "--steps")
    if named is not None and (reason := abilities.refuses(named, runner.facts.domain)):
        raise UsageError(f"--case, --steps: {reason}")
    drawn = named is None or not named.calls
    if drawn and (reason := extras.missing("strategies")):
        raise UsageError(f"drawing programs of a cache class {reason}")
    result = check_class(
        spec,
        runner,
        progress,
        programs=arguments.max_examples or (_THOROUGH if arguments.thorough else _PROGRAMS),
        seed=arguments.seed or 0,
        seconds=arguments.seconds,
        named=named,
    )
    if not result.interrupted:
        progress("done")
    print(render(result), end="")
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(result))
    if arguments.script is not None and result.program is not None:
        if result.outcome.verdict in SHOWN:
            precision = result.facts.precisions[result.program.case.dtype]
            text = program_script(
                spec,
                result.program,
                abilities,
                result.outcome,
                precision,
                nonfinite="nonfinite_tail" in result.facts.domain.features,
            )
            write_atomically(arguments.script, text)
        else:
            print(f"--script: not written: none shows {result.verdict}", file=sys.stderr)
    if result.interrupted:
        return INTERRUPTED
    if not result.tally.programs and result.program is None:
        return USAGE
    return OK if result.verdict.passes else NOT_OK


def _named(arguments: argparse.Namespace) -> Program | None:
    for name in ("calls", "after", "compile"):
        if getattr(arguments, name) not in (None, False):
            raise UsageError(f"--{name}: for a function; a class takes --steps")
    if arguments.case is None:
        return None
    return Program.from_text(f"{arguments.case} {arguments.steps or ''}")
