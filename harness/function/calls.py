"""Calls: a loop as an item of a search, after other loops in the same process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from harness.case import DecodeCase
from harness.case.loop import Loop, loops_as_text
from harness.function.item import Runner
from harness.function.outcome import Outcome

# What a long run may take, in seconds, and how many calls it has, the most that fit. Fewer
# would not tell what grows with their number from what is bounded.
_LONG_SECONDS = 3.0
LONG = (1000, 250, 128)
# Of a call, beside the function's own time: most calls of a long run are not judged against golden.
_OVERHEAD = 5e-4


@dataclass
class Pace:
    """How long a call of the function takes in a loop, None while it is not known."""

    seconds: float | None = None

    def long_run(self) -> int:
        """How many calls a long run may have; 0 where they take too long for one."""
        if self.seconds is None:
            return 0
        each = self.seconds + _OVERHEAD
        return next((calls for calls in LONG if calls * each <= _LONG_SECONDS), 0)


@dataclass(frozen=True)
class Calls:
    """The calls of ``loop``, after those of ``before`` in the same process, which are not reported.

    ``pace``, if there is one, learns how long they take."""

    loop: Loop
    before: tuple[Loop, ...] = ()
    pace: Pace | None = field(default=None, compare=False, repr=False)

    @property
    def case(self) -> DecodeCase:
        """The case of the loop's first call."""
        return self.loop.case

    @property
    def cases(self) -> tuple[DecodeCase, ...]:
        """The cases of all loops, the last one ``case``."""
        return tuple(loop.case for loop in (*self.before, self.loop))

    @property
    def words(self) -> tuple[str, ...]:
        """Words of a command line of ``check`` beside ``--case ID``."""
        words: tuple[str, ...] = ()
        if self.loop.steps:
            words += ("--calls", " ".join(map(str, self.loop.steps)))
        if self.before:
            words += ("--after", loops_as_text(self.before))
        return words

    def run(self, runner: Runner, *, timeout: float | None = None) -> Outcome:
        """Make the calls; where some come before, in a fresh process if there is one."""
        if self.before:
            runner.fresh()
        for loop in self.before:
            runner.run(loop if loop.steps else loop.case, timeout=timeout)
        outcome = runner.run(self.loop if self.loop.steps else self.case, timeout=timeout)
        if self.pace is not None:
            self.pace.seconds = outcome.seconds or self.pace.seconds
        return outcome

    def on(self, case: DecodeCase) -> Calls:
        """The same steps from another case."""
        return dataclasses.replace(self, loop=self.loop.replace(case=case))
