"""Drawing: which of the drawn cases a search runs next, as its runs tell how fast the function is,
and which sizes and options it refuses."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from harness.case import DecodeCase
from harness.case.classes import Class, Coverage, Pair, classes_of, pairs_of
from harness.function.item import Item, Single
from harness.function.outcome import Outcome
from harness.function.speed import Speed, work
from harness.verdict import Verdict

# Of so many small cases the next one is chosen, and of so many large ones.
_WINDOW = 32
# So often the window is filled again in search of a small case.
_REFILLS = 10
# What was refused so often, and never taken, is passed over, but for one case in so many.
_REFUSALS = 3
_RETRY = 10
# At the start there is credit for so many cases.
_CREDIT = 10


class Drawing:
    """Cases chosen from those drawn: three times of four, of the next few, the one with most
    classes and pairs of classes that were not run yet; else the next one. Of large cases it is the
    one with most of them for its time.

    Args:
        cases: the drawn ones.
        small: whether a case is run whatever it takes. Others wait until they are paid for.
        pace: seconds that each small case earns for larger ones, which cost what they take; it
            earns the time that it took itself where that is more, so that at least half of the time
            is for large cases, however slow the function or busy the machine is.
        speed: estimates what a case takes.

    ``dropped`` counts the cases that were never paid for. Cases of classes, or pairs, that the
    function has refused each time are passed over.
    """

    def __init__(
        self,
        cases: Iterator[DecodeCase],
        small: Callable[[DecodeCase], bool],
        pace: float,
        speed: Speed,
    ) -> None:
        self._cases, self._small, self._pace, self._speed = cases, small, pace, speed
        self._credit = _CREDIT * pace
        self._few: list[DecodeCase] = []
        self._large: list[DecodeCase] = []
        self._coverage = Coverage()
        # Which small case is next depends on small ones alone, so on no time that was taken.
        self._small_coverage = Coverage()
        self._refused: Counter[Class | Pair] = Counter()
        self._taken = self._hopeless = 0
        self.dropped = 0

    def __iter__(self) -> Iterator[Single]:
        return self

    def __next__(self) -> Single:
        self._refill()
        return Single(self._next_large() or self._next_small())

    def _refill(self) -> None:
        for _ in range(_REFILLS):
            lacking = max(0, 2 * (_WINDOW - len(self._few)))
            for case in itertools.islice(self._cases, lacking):
                if self._worth_while(case):
                    (self._few if self._small(case) else self._large).append(case)
            # Those that would show least for their size make room.
            self._large.sort(key=lambda case: self._coverage.gain(case) / work(case), reverse=True)
            self.dropped += len(self._large[_WINDOW:])
            del self._large[_WINDOW:]
            if self._few:
                return

    def _next_large(self) -> DecodeCase | None:
        """The large case that shows most for its time, once it is paid for."""
        times = {case: self._speed.estimate(case) for case in self._large}
        known = {case: seconds for case, seconds in times.items() if seconds is not None}
        wanted = max(known, key=lambda case: self._coverage.gain(case) / known[case], default=None)
        if wanted is None or known[wanted] > self._credit:
            return None
        self._large.remove(wanted)
        return wanted

    def _next_small(self) -> DecodeCase:
        """The next one, or the one that shows most. Of a domain that has no small case the cheapest
        one, whatever it takes."""
        if not self._few and not self._large:
            raise StopIteration
        if not self._few:
            case = min(self._large, key=work)
            self._large.remove(case)
            return case
        turn = self._taken % 4
        self._taken += 1
        if turn == 0:
            return self._few.pop(0)
        case = max(self._few, key=self._small_coverage.gain)
        self._few.remove(case)
        return case

    def learn(self, item: Item, outcome: Outcome, seconds: float) -> None:
        """Take notice of what a run has found, and how long it took."""
        case = item.case
        if outcome.invalid:
            return
        if outcome.verdict is Verdict.UNSUPPORTED:
            classes = classes_of(case)
            self._refused.update(c for c in classes if c not in self._coverage.classes)
            self._refused.update(p for p in pairs_of(classes) if p not in self._coverage.pairs)
            self._few = [c for c in self._few if self._worth_while(c)]
            self._large = [c for c in self._large if self._worth_while(c)]
            return
        self._coverage.add(case)
        if self._small(case):
            self._small_coverage.add(case)
        self._credit += max(self._pace, seconds) if self._small(case) else -seconds
        self._speed.learn(case, seconds)

    def _worth_while(self, case: DecodeCase) -> bool:
        """Whether the function may take the case; what it seems to refuse is tried now and then."""
        classes = classes_of(case)
        refused = any(
            self._refused[name] >= _REFUSALS and name not in self._coverage.classes
            for name in classes
        ) or any(
            self._refused[pair] >= _REFUSALS and pair not in self._coverage.pairs
            for pair in pairs_of(classes)
        )
        if not refused:
            return True
        self._hopeless += 1
        return self._hopeless % _RETRY == 0
