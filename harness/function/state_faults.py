"""How soon each fault of state is found, and as what program."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.function.programs import check_class
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.serving.faults import StateFault


@dataclass(frozen=True)
class StateRow:
    """What came of one fault: its ``verdict`` after ``programs``, the smallest program in words
    and as ``text``, its number of ``steps``, and what the wrong row attended, by name. Without a
    program it was not found."""

    fault: str
    number: int
    verdict: str
    programs: int
    steps: int
    program: str
    text: str
    diagnosis: str


def measure(fault: StateFault, programs: int, seed: int = 0) -> StateRow:
    """Search for a program on which the fault's class fails, in this process."""
    spec = TargetSpec(f"{fault.cls.__module__}:{fault.cls.__name__}")
    runner = LocalRunner(spec)
    result = check_class(spec, runner, lambda text: None, programs=programs, seed=seed)
    found = result.program
    return StateRow(
        fault.name,
        fault.number,
        result.verdict,
        result.tried if found else result.tally.programs,
        len(found.steps) if found else 0,
        found.sentence if found else "",
        str(found or ""),
        ", ".join(result.outcome.names),
    )


def markdown(rows: Sequence[StateRow]) -> Iterator[str]:
    """A table of the rows, and its totals."""
    yield "| class | fault | programs | smallest program | the wrong row |"
    yield "|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row.number or ''} | {row.fault} | {row.programs} |"
            f" {row.program or 'not found'} | {row.diagnosis or row.verdict} |"
        )
    found = [row for row in rows if row.program]
    yield ""
    if not found:
        yield f"0 of {len(rows)} found"
        return
    programs = statistics.median(row.programs for row in found)
    steps = statistics.median(row.steps for row in found)
    yield (
        f"{len(found)} of {len(rows)} found, the median after {programs:g} programs, as programs"
        f" of {steps:g} steps at the median and {max(row.steps for row in found)} at most"
    )
