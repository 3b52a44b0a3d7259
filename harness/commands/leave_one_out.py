"""``python -m harness faults --diagnose``: is each fault named rightly, and never falsely?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.commands.options import INTERRUPTED, NOT_OK, OK
from harness.support.files import write_atomically
from harness.support.progress import progress_to_stderr
from harness.support.strict_json import with_rows

if TYPE_CHECKING:
    from harness.diagnosis.leave_one_out import Trial

SCHEMA = 1


def run(arguments: argparse.Namespace) -> int:
    """Measure the chosen faults, print the table, and return the exit code; what was measured
    until an interrupt is printed and written as well."""
    from harness.diagnosis.leave_one_out import Naming, measured, trials

    names = arguments.names or None
    mutants = [m for m in trials(arguments.dtypes) if names is None or m[0] in names]
    done: list[Trial] = []
    stopped = False
    try:
        for trial in measured(
            mutants,
            progress_to_stderr(),
            seed=arguments.seed,
            examples=arguments.max_examples,
            jobs=arguments.jobs,
        ):
            done.append(trial)
    except KeyboardInterrupt:
        stopped = True
    print("\n".join(render(done, len(mutants))))
    if arguments.json is not None:
        write_atomically(arguments.json, to_json(done))
    if stopped:
        return INTERRUPTED
    return NOT_OK if any(Naming.FALSE in (t.known, t.left_out) for t in done) else OK


def render(done: Sequence[Trial], of: int) -> Iterator[str]:
    """Counts by what was named, for each dtype and in all, then each mutant that was not named
    rightly or was named falsely."""
    from harness.diagnosis.leave_one_out import Naming
    from harness.support.text import table

    rows = []
    dtypes = list(dict.fromkeys(t.dtype for t in done))
    for what, some in [*((d, [t for t in done if t.dtype == d]) for d in dtypes), ("all", done)]:
        for suspects, found in (
            ("all", [t.known for t in some]),
            ("left out", [t.left_out for t in some]),
        ):
            rows.append([f"{what}, {suspects}", *(str(found.count(n)) for n in Naming)])
    yield f"{len(done)} of {of} mutants diagnosed"
    yield from table(["dtype, suspects", *Naming], rows)
    for t in done:
        mutant = f"  {t.fault} in {t.scope} rows, {t.dtype}"
        if t.known is not Naming.RIGHT:
            yield f"{mutant}: {t.known}{': ' if t.names else ''}{', '.join(t.names)}"
        if t.left_out is Naming.FALSE:
            yield f"{mutant}, left out: false: {', '.join(t.false_names)}"


def to_json(done: Sequence[Trial]) -> str:
    """The trials as JSON, one on each line."""
    from harness.support.environment import environment

    head = {"schema": SCHEMA, "environment": environment()}
    return with_rows(head, "trials", map(vars, done))
