"""Whether a failure shows by itself in a fresh process, or only after other calls: then which."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.case.loop import Loop
from harness.function.calls import Calls
from harness.function.item import Item, Runner, Single
from harness.function.outcome import Outcome
from harness.function.shrink_calls import changed, cut, last_case, smaller_calls
from harness.verdict import Finding, Verdict

# So often a call must be wrong after the others, and right by itself, to be called stale: a result
# that comes and goes would be either now and then.
_AGAIN = 3
_ALONE = 12
_NUMBERS = (Verdict.WRONG, Verdict.NONFINITE, Verdict.LEAK, Verdict.NONDETERMINISTIC)


@dataclass(frozen=True)
class Confirmation:
    """The smallest sequence of calls found that fails again, or ``item`` as it was found.

    ``outcome`` has what it shows and, in ``shows``, on what that depends. ``settled`` says that
    there is nothing more to shrink."""

    item: Item
    outcome: Outcome
    settled: bool


class Confirmer:
    """Runs a failing item again, in fresh processes, until ``seconds`` have passed.

    Args:
        timeout: for one call, as ``Runner.run`` takes it.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        seconds: float,
        timeout: float | None = None,
        shrinks: bool = True,
    ) -> None:
        self._runner, self._timeout = runner, timeout
        self._domain = runner.facts.domain
        self._end, self._shrinks = time.monotonic() + seconds, shrinks

    def confirmed(self, item: Item, outcome: Outcome, history: Sequence[Loop]) -> Confirmation:
        """Find out whether ``item`` fails by itself, or which calls of ``history``, made before it
        in the same process, it needs."""
        if not self._runner.fresh():
            return self._here(item, outcome)
        again = item.run(self._runner, timeout=self._timeout)
        calls = item if isinstance(item, Calls) else Calls(Loop(item.case))
        if _fails(again) and calls.before:
            return self._stateful(calls, again)
        if _fails(again):
            return (
                self._of_loop(calls, again)
                if calls.loop.steps
                else Confirmation(item, again, False)
            )
        found = self._after(calls, outcome, history)
        if found is not None:
            return found
        shows = (
            "it did not show again, neither by itself in a fresh process nor after the same calls"
        )
        return Confirmation(item, dataclasses.replace(outcome, shows=shows), True)

    def _here(self, item: Item, outcome: Outcome) -> Confirmation:
        """What can be found out in the process in which it failed. A call that fails by itself
        there, too, is reported alone, unless its output is that of tensors of an earlier call."""
        shows = "not run again by itself, since it has no process of its own (--no-isolation)"
        if not isinstance(item, Calls):
            return Confirmation(item, dataclasses.replace(outcome, shows=shows), False)
        small, ran = item, outcome
        if self._shrinks and not item.before:
            if outcome.number and outcome.verdict is not Verdict.RETAINED:
                small = changed(item, loop=cut(item.loop, outcome.number))
            alone = dict.fromkeys((small.case, last_case(small.loop)))
            for case in () if outcome.sentences else alone:
                seen = Single(case).run(self._runner, timeout=self._timeout)
                if _fails(seen) and self._domain.refuses(case) is None:
                    seen = dataclasses.replace(seen, shows=shows)
                    return Confirmation(Single(case), seen, False)
            small, ran = self._smallest(small, outcome, lambda loop: True)
        return Confirmation(small, dataclasses.replace(ran, shows=shows), True)

    def _after(self, item: Calls, outcome: Outcome, history: Sequence[Loop]) -> Confirmation | None:
        """The fewest calls before ``item`` after which it fails; None if it does not fail even
        after all of them."""
        count = 1
        while True:
            candidate = dataclasses.replace(item, before=tuple(history[-count:]))
            ran = self._ran(candidate)
            if _fails(ran):
                break
            if count >= len(history) or self._late():
                return None
            count *= 2
        return self._stateful(candidate, ran)

    def _of_loop(self, item: Calls, outcome: Outcome) -> Confirmation:
        """A loop that fails in a fresh process: whether its last call fails without the others,
        and then whether that shows without a loop too."""
        if outcome.verdict is Verdict.RETAINED:
            return self._stateful(item, outcome)
        item = dataclasses.replace(item, loop=cut(item.loop, outcome.number))
        if self._right_alone(item.loop):
            return self._stateful(item, outcome)
        for case in (last_case(item.loop), item.case):
            single = Single(case)
            self._runner.fresh()
            ran = single.run(self._runner, timeout=self._timeout)
            if _fails(ran) and self._domain.refuses(case) is None:
                return Confirmation(single, ran, False)
        small, ran = self._smallest(item, outcome, lambda loop: True)
        shows = "its last call fails without the calls before it too"
        return Confirmation(small, dataclasses.replace(ran, shows=shows), True)

    def _right_alone(self, loop: Loop, times: int = 1) -> bool:
        """Whether the last call of a loop is right without the calls before it, so many times."""
        for _ in range(times):
            self._runner.fresh()
            what = loop if loop.steps else loop.case
            if _fails(self._runner.run(what, timeout=self._timeout, last_alone=True)):
                return False
        return True

    def _stateful(self, item: Calls, outcome: Outcome) -> Confirmation:
        """Calls whose last one is right by itself, as far as is known: shrunk, and named."""
        if outcome.verdict is not Verdict.RETAINED and outcome.number:
            item = changed(item, loop=cut(item.loop, outcome.number))
        kept = outcome.verdict is Verdict.RETAINED
        small, ran = item, outcome
        again = self._comes_back(item, outcome)
        if again:
            small, ran = self._smallest(item, outcome, lambda loop: kept or self._right_alone(loop))
            # A smaller one was kept for failing once, which chance may have done.
            again = small == item or self._comes_back(small, ran)
        if not again:
            shows = "it comes and goes: not each run of the same calls shows it"
            return Confirmation(item, dataclasses.replace(outcome, shows=shows), True)
        return Confirmation(small, _named(small, ran), True)

    def _comes_back(self, item: Calls, outcome: Outcome) -> bool:
        """Whether the last of the calls fails each time they are made, and never by itself."""
        kept = outcome.verdict is Verdict.RETAINED
        if not kept and item.loop.calls == 1 and not item.before:
            return False
        # A hang takes its whole limit each time, and chance has little part in it.
        times = 1 if outcome.verdict is Verdict.TIMEOUT else _AGAIN
        for _ in range(times):
            ran = self._ran(item)
            if ran.verdict is not outcome.verdict:
                return False
            if not kept and item.loop.steps and ran.number != item.loop.calls:
                return False
        return kept or self._right_alone(item.loop, _ALONE)

    def _smallest(
        self, item: Calls, outcome: Outcome, alone: Callable[[Loop], bool]
    ) -> tuple[Calls, Outcome]:
        """Fewer calls, then a smaller geometry, then simpler steps, that fail in the same way."""
        best, found = item, outcome
        if not self._shrinks:
            return best, found

        def still(candidate: Calls) -> bool | None:
            nonlocal best, found
            if self._late():
                return None
            if any(self._domain.refuses(loop.case) for loop in (candidate.loop, *candidate.before)):
                return False
            ran = self._ran(candidate)
            if ran.invalid or ran.verdict is not outcome.verdict:
                return False
            if ran.number and ran.number < candidate.loop.calls:
                candidate = changed(candidate, loop=cut(candidate.loop, ran.number))
            if not alone(candidate.loop):
                return False
            best, found = candidate, ran
            return True

        smaller_calls(lambda: best, still)
        return best, found

    def _ran(self, item: Calls) -> Outcome:
        self._runner.fresh()
        return item.run(self._runner, timeout=self._timeout)

    def _late(self) -> bool:
        return time.monotonic() > self._end


def _fails(outcome: Outcome) -> bool:
    return not outcome.invalid and not outcome.verdict.passes


def _named(item: Calls, outcome: Outcome) -> Outcome:
    """The outcome of a call that is right by itself: STALE where it is about numbers."""
    count = item.loop.calls - 1 + sum(loop.calls for loop in item.before)
    before = "1 call" if count == 1 else f"{count} calls"
    shows = f"only after {before}"
    if outcome.verdict is Verdict.RETAINED:
        return outcome
    shows += "; by itself, in a fresh process, the call is right"
    if outcome.verdict not in _NUMBERS:
        return dataclasses.replace(outcome, shows=shows)
    first, *others = outcome.findings
    evidence = f"{first.verdict} after {before}, right without: {first.evidence}"
    findings = (Finding(Verdict.STALE, evidence), *others)
    return dataclasses.replace(outcome, findings=findings, shows=shows)
