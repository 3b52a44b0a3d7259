"""Items: what a search runs, one after the other, and the runner that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.case import DecodeCase
from harness.case.loop import Loop
from harness.case.program import Program, Task
from harness.function.outcome import Outcome
from harness.function.run import Facts


class Runner(Protocol):
    """Runs the target on cases: ``LocalRunner`` in this process, ``Worker`` in one of its own."""

    facts: Facts
    history: list[Loop | Program]

    def run(self, case: Task, *, timeout: float | None = None, last_alone: bool = False) -> Outcome:
        """Judge the target on ``case``, within ``timeout`` seconds for each call where the runner
        can end it, and append it to ``history``, what ran in the present process so far.

        With ``last_alone``, leave out all calls of a loop but the last."""

    def fresh(self) -> bool:
        """Go on in a fresh process; False where the runner has only this one, and it was used."""

    def diagnosed(
        self, case: DecodeCase | Program, outcome: Outcome, *, brief: bool = False
    ) -> Outcome:
        """``outcome`` with a diagnosis; with ``brief``, without drawing further cases."""


class Item(Protocol):
    """One thing to run: a case, or a case with a way of running it."""

    @property
    def case(self) -> DecodeCase:
        """The case that is run, on which the item is counted and reported."""

    @property
    def cases(self) -> tuple[DecodeCase, ...]:
        """All cases that are run, the last one ``case``."""

    @property
    def words(self) -> tuple[str, ...]:
        """What the command that runs the item again needs beside ``--case ID``."""

    def run(self, runner: Runner, *, timeout: float | None = None) -> Outcome:
        """What the runner finds, within ``timeout`` seconds where it can end the run."""

    def on(self, case: DecodeCase) -> Item:
        """The same way of running another case, for shrinking."""


@dataclass(frozen=True)
class Single:
    """One judged call of a case."""

    case: DecodeCase
    words: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[DecodeCase, ...]:
        """The case alone."""
        return (self.case,)

    def run(self, runner: Runner, *, timeout: float | None = None) -> Outcome:
        """Judge the case."""
        return runner.run(self.case, timeout=timeout)

    def on(self, case: DecodeCase) -> Single:
        """Another case, run once."""
        return Single(case)
