"""``python -m harness faults``: list the fault models, or measure what catches each of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from harness.commands import leave_one_out
from harness.commands.options import NOT_OK, OK, UsageError, sharing, whole
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr
from harness.support.strict_json import to_text, with_rows
from harness.support.text import not_one_of

if TYPE_CHECKING:
    from harness.faults import Fault
    from harness.faults.kill_matrix import Cell, Matrix
    from harness.serving.faults import StateFault

SCHEMA = 1
_PROGRAMS = 200


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "faults",
        help="plant every known kind of bug and say which check catches it",
        description="Run the kill matrix: mutant x dtype, which check caught it, after how many"
        " drawn examples. Exit 1 if one lives or a sound path is accused.",
        parents=sharing("--dtypes", "--seed", "--json"),
    )
    parser.set_defaults(run=run)
    parser.add_argument("names", nargs="*", metavar="FAULT", help="faults to plant (default: all)")
    parser.add_argument("--list", action="store_true", help="list the fault models and run nothing")
    parser.add_argument(
        "--state",
        action="store_true",
        help="faults between the calls of a decode loop instead: a table of those found",
    )
    parser.add_argument(
        "--diagnose",
        action="store_true",
        help="is each fault named rightly, and is none named where its model is left out?",
    )
    parser.add_argument("--jobs", type=whole(1), metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--max-examples", type=whole(1), default=2000, metavar="N", help="drawn (default 2000)"
    )


def run(arguments: argparse.Namespace) -> int:
    """List the faults or run the kill matrix, and return the exit code."""
    from harness.faults import FAULTS

    if arguments.jobs is not None and arguments.state:
        raise UsageError("--jobs: not with --state, whose programs take seconds")
    if arguments.state and arguments.diagnose:
        raise UsageError("--diagnose: not with --state, whose faults have no diagnosis by name")
    if arguments.state:
        return _of_state(arguments)
    for name in arguments.names:
        if name not in FAULTS:
            raise UsageError(f"FAULT: {not_one_of(name, FAULTS)}")
    chosen = [FAULTS[name] for name in arguments.names] or list(FAULTS.values())
    if arguments.list:
        print("\n".join(_listed(chosen)))
        return OK
    if arguments.diagnose:
        return leave_one_out.run(arguments)
    matrix = _measured(arguments, chosen)
    print("\n".join(render(matrix)))
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(matrix))
    return OK if matrix.holds else NOT_OK


def _measured(arguments: argparse.Namespace, chosen: list[Fault]) -> Matrix:
    from harness.faults.kill_matrix import measure_power
    from harness.isolation.pool import processes

    given = (chosen, arguments.dtypes, arguments.max_examples, arguments.seed, progress_to_stderr())
    if (arguments.jobs or 1) == 1:
        return measure_power(*given)
    with processes(arguments.jobs) as executor:
        return measure_power(*given, executor, arguments.jobs)


def _of_state(arguments: argparse.Namespace) -> int:
    from harness.serving.faults import STATE_FAULTS

    known = {fault.name: fault for fault in STATE_FAULTS}
    for name in arguments.names:
        if name not in known:
            raise UsageError(f"FAULT: {name!r} is not one of {' '.join(known)}")
    chosen = [known[name] for name in arguments.names] or STATE_FAULTS
    if arguments.list:
        print("\n".join(_listed(chosen)))
        return OK
    from harness.function.state_faults import StateRow, markdown, measure

    rows: list[StateRow] = []
    progress = progress_to_stderr()
    for fault in chosen:
        progress(fault.name)
        rows.append(measure(fault, min(arguments.max_examples, _PROGRAMS), arguments.seed))
    print("\n".join(markdown(rows)))
    if arguments.json is not None:
        write_atomically(arguments.json, to_text([vars(row) for row in rows], 1))
    return OK if all(row.program for row in rows) else NOT_OK


def _listed(faults: Iterable[Fault | StateFault]) -> Iterator[str]:
    from harness.faults import Fault

    for fault in faults:
        kind = f" ({fault.kind})" if isinstance(fault, Fault) else ""
        yield f"{fault.number:2} {fault.name}{kind}: {fault.summary}"
        yield f"   remedy: {fault.remedy}; reported: {fault.source}"


def _examples(cells: list[Cell]) -> str:
    return "/".join(str(c.examples) if c.killed_by else "lives" for c in cells)


def render(matrix: Matrix) -> Iterator[str]:
    """The matrix as text: a line for each fault, a column for each scope, an entry in it for each
    dtype."""
    from harness.faults.mutants import Scope
    from harness.support.text import table

    rows = []
    for name in dict.fromkeys(c.fault for c in matrix.cells):
        own = [c for c in matrix.cells if c.fault == name]
        by_scope = [_examples([c for c in own if c.scope is s]) for s in Scope]
        caught = ", ".join(dict.fromkeys(c.killed_by for c in own if c.killed_by))
        rows.append([f"{own[0].number:2} {name}", *by_scope, caught])
    dtypes = "/".join(dict.fromkeys(c.dtype for c in matrix.cells))
    yield f"examples until caught ({dtypes}), fault planted in"
    yield from table(["fault", *Scope, "caught by"], rows)
    yield ""
    lives = [f"{c.fault} in {c.scope} rows, {c.dtype}" for c in matrix.cells if not c.killed_by]
    yield f"{len(matrix.cells)} mutants, {len(lives)} alive; {matrix.seconds:.0f} s"
    yield from (f"  alive: {text}" for text in lives)
    yield f"output faults: caught after {matrix.median_examples:g} examples at the median"
    yield f"sound paths: {matrix.sound_verdicts} verdicts, {len(matrix.false_alarms)} false alarms"
    yield from (f"  {text}" for text in matrix.false_alarms)


def to_json(matrix: Matrix) -> str:
    """The matrix as JSON, with one cell on each line."""
    from harness.support.environment import environment

    head = {
        "schema": SCHEMA,
        "environment": environment(),
        "max_examples": matrix.max_examples,
        "median_examples": matrix.median_examples,
        "sound_verdicts": matrix.sound_verdicts,
        "false_alarms": matrix.false_alarms,
    }
    return with_rows(head, "cells", map(vars, matrix.cells))
