"""``python -m harness bench``: how long a step of the fixed path takes, and how many verdicts the
harness gives in a second."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.commands.options import INTERRUPTED, OK, USAGE, UsageError, sharing, whole
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr
from harness.support.strict_json import to_text

if TYPE_CHECKING:
    from harness.benching.measure import Times
    from harness.benching.verdicts import Speed

_TABLES = ("steps", "verdicts")


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "bench",
        help="time the fixed path beside sliced SDPA and others, and the harness itself",
        description="Medians of rounds by turns in one run; one thread on a CPU. Ratios are to"
        " sliced SDPA in the same round. Nothing is asserted.",
        parents=sharing("--device", "--json"),
    )
    parser.set_defaults(run=run)
    what = "steps, verdicts (default: both)"
    parser.add_argument("tables", nargs="*", choices=[[], *_TABLES], metavar="TABLE", help=what)
    what = "the first N steps alone"
    parser.add_argument("--steps", type=whole(1), metavar="N", help=what)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the tables and return the exit code."""
    tables = arguments.tables or list(_TABLES)
    import torch

    from harness.benching.measure import CUDA_STEPS, STEPS, measure
    from harness.paths.compile import why_not
    from harness.support.environment import environment, one_line
    from harness.support.threads import one_thread

    if reason := why_not(arguments.device):
        raise UsageError(reason)
    progress = progress_to_stderr()
    times: list[Times] = []
    speeds: list[Speed] = []
    interrupted = False
    try:
        with one_thread(), torch.no_grad():
            steps = STEPS if arguments.device == "cpu" else CUDA_STEPS
            for step in steps[: arguments.steps] if "steps" in tables else ():
                progress(str(step))
                times.append(measure(step, arguments.device))
            if "verdicts" in tables:
                speeds = list(_speeds(progress))
    except KeyboardInterrupt:
        interrupted = True
    lines = [*_steps_table(times), *_speeds_table(speeds), one_line(environment(arguments.device))]
    print(*lines, sep="\n")
    if arguments.json is not None:
        document = {
            "environment": environment(arguments.device),
            "interrupted": interrupted,
            "steps": [one.to_values() for one in times],
            "verdicts": [dataclasses.asdict(one) for one in speeds],
        }
        write_atomically(arguments.json, to_text(document, 1))
    if interrupted:
        return INTERRUPTED
    return OK if times or speeds else USAGE


def _speeds(progress: Any) -> Iterator[Speed]:
    from harness.benching.verdicts import ROWS, speed

    for row in ROWS:
        progress(" ".join(row))
        yield speed(*row)


def _steps_table(times: list[Times]) -> Iterator[str]:
    if not times:
        return
    names = list(dict.fromkeys(name for one in times for name in one.ratios))
    shown = [name for name in names if name not in ("sliced SDPA", "floor")]
    yield f"| step | sliced SDPA | {' | '.join(shown)} | fixed path to floor |"
    yield f"|---|---:|{'---:|' * len(shown)}---:|"
    for one in times:
        cells = [f"{one.ratios[name]:.2f}" if name in one.ratios else "-" for name in shown]
        to_floor = one.seconds["fixed path"] / one.seconds["floor"]
        milliseconds = f"{1e3 * one.seconds['sliced SDPA']:.2f} ms"
        yield f"| {one.step} | {milliseconds} | {' | '.join(cells)} | {to_floor:.1f} |"
    yield ""
    for one in times:
        yield from (f"- {one.step}: {name} {why}" for name, why in one.refused.items())


def _speeds_table(speeds: list[Speed]) -> Iterator[str]:
    if not speeds:
        return
    yield "| path | geometry | verdicts a CPU second | running the path | case and golden |"
    yield "|---|---|---:|---:|---:|"
    for one in speeds:
        shares = f"{one.running:.0%} | {one.making:.0%}"
        yield f"| {one.path} | `{one.geometry}` | {one.verdicts:.0f} | {shares} |"
    yield ""
