"""The search for a case on which a user's function fails, and its result."""

from __future__ import annotations

import dataclasses
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.function import limits
from harness.function.calls import Calls
from harness.function.confirm import Confirmer
from harness.function.item import Item, Runner
from harness.function.outcome import Outcome
from harness.function.precision import demonstration
from harness.function.run import Facts
from harness.function.running import Ran, ran
from harness.function.schedule import Source
from harness.function.shrink import REDUCTIONS, SIZES, Reduction, shrink
from harness.function.spec import TRITON_CACHE_LEN, TargetSpec
from harness.function.speed import work
from harness.function.tally import Tally
from harness.support.progress import Progress
from harness.verdict import Verdict
from harness.verdict.imprecise import imprecise

_TRIES = 3
# A case of more work is made smaller before its failure is explained, which takes many runs.
_LARGE = 2**19
_PROGRESS_EVERY = 2.0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    ``item`` is the smallest item found that fails, shrunk from ``drawn``; both are None where
    nothing fails, or where only all items together show it (IMPRECISE). ``seconds`` is wall time,
    ``spent`` what each source took of it, and ``counts`` are its items. A search that was
    ``interrupted`` has what was seen until then."""

    spec: TargetSpec
    facts: Facts
    tally: Tally
    outcome: Outcome
    seconds: float
    spent: dict[str, float]
    counts: dict[str, int]
    item: Item | None = None
    drawn: Item | None = None
    interrupted: bool = False

    @property
    def case(self) -> DecodeCase | None:
        """The failing case, or None where nothing fails."""
        return None if self.item is None else self.item.case

    @property
    def verdict(self) -> Verdict:
        """OK, the failing case's verdict, or UNSUPPORTED where nothing could be judged."""
        if self.item is None and not self.tally.judged:
            return Verdict.UNSUPPORTED
        return self.outcome.verdict

    @property
    def scriptable(self) -> bool:
        """Whether a script that judges one call by its budget can show the verdict."""
        return self.verdict is not Verdict.IMPRECISE

    @property
    def repro(self) -> str | None:
        """The command that runs the failing item again, or None where nothing fails."""
        return None if self.item is None else repro_command(self.spec, self.item)


def repro_command(spec: TargetSpec, item: Item) -> str:
    """The command ``python -m harness check TARGET --case ID`` with the options that it needs."""
    words = ["python", "-m", "harness", "check", spec.target, "--case", str(item.case), *item.words]
    words += spec.declared.words()
    if spec.cache_len != (TRITON_CACHE_LEN if spec.triton else Domain.cache_len):
        # The diagnosis draws further cases of the same domain.
        words += ["--cache-len", "{}:{}".format(*spec.cache_len)]
    if spec.triton:
        words.append("--triton")
    if spec.device != "cpu":
        words += ["--device", spec.device]
    return shlex.join(words)


def check(
    spec: TargetSpec,
    runner: Runner,
    sources: Sequence[Source],
    progress: Progress,
    *,
    others: Sequence[Runner] = (),
    seconds: float | None = None,
    shrinks: bool = True,
    allows: Sequence[str] = (),
) -> SearchResult:
    """Run the target on the items of ``sources`` until one fails, and shrink that one. Where none
    fails, the counts of all of them together say whether the function is imprecise.

    Args:
        sources: take turns by their shares of the time; the first one bounds the search.
        others: further runners of the target, which run items at the same time.
        seconds: wall time after which no further item is run.
        shrinks: whether to look for a smaller failing item.
        allows: names of verdicts, in lower case, that are not looked for: ``imprecise``.
    """
    start = told = time.monotonic()
    tally = Tally()
    outcome, small, failed, interrupted = Outcome(), None, None, False
    until = math.inf if seconds is None else start + seconds
    try:
        for one in ran([runner, *others], sources, until):
            tally.count(one)
            if not (one.outcome.invalid or one.outcome.verdict.passes):
                small, outcome, failed = one.item, one.outcome, one.item
                small, outcome = _settled(one, tally, progress, shrinks)
                tally.used(outcome, small.loop if isinstance(small, Calls) else small.case)
                break
            if time.monotonic() - told >= _PROGRESS_EVERY:
                told = time.monotonic()
                names = ", ".join(f"{source.count} {source.name}" for source in sources)
                progress(f"{names}: {tally.judged} judged OK")
        beyond = imprecise(tally.precision) if failed is None and "imprecise" not in allows else []
        if beyond:
            outcome = Outcome(tuple(beyond))
            small = failed = demonstration(runner, tally.counted, beyond, progress)
    except KeyboardInterrupt:
        interrupted = True
    spent = {source.name: source.seconds for source in sources}
    counts = {source.name: source.count for source in sources}
    total = time.monotonic() - start
    facts = runner.facts
    return SearchResult(
        spec, facts, tally, outcome, total, spent, counts, small, failed, interrupted
    )


def _settled(failed: Ran, tally: Tally, progress: Progress, shrinks: bool) -> tuple[Item, Outcome]:
    """A failing item, as small as it gets, and what it shows in a fresh process."""
    runner, item, outcome = failed.runner, failed.item, failed.outcome
    hangs = outcome.verdict is Verdict.TIMEOUT
    limit = 0.5 + 10 * tally.slowest if hangs and shrinks else None
    shows = ""
    if shrinks or isinstance(item, Calls):
        progress(f"{outcome.verdict} on {item.case}; running it again in a fresh process")
        confirmer = Confirmer(runner, seconds=limits.SHRINK_SECONDS, timeout=limit, shrinks=shrinks)
        found = confirmer.confirmed(item, outcome, failed.history)
        item, outcome, shows = found.item, found.outcome, found.outcome.shows
        if found.settled:
            return item, outcome
    end = time.monotonic() + (limits.SHRINK_HANG_SECONDS if hangs else limits.SHRINK_SECONDS)
    if shrinks and work(item.case) > _LARGE:
        progress(f"{outcome.verdict} on {item.case}; making it smaller")
        item, outcome = _smallest(runner, item, outcome, limit, end, reductions=SIZES)
    progress(f"{outcome.verdict} on {item.case}; looking for an explanation")
    outcome = runner.diagnosed(item.case, outcome)
    if not shrinks:
        return item, outcome
    progress(f"{outcome.verdict} on {item.case}; shrinking")
    small, seen = _smallest(runner, item, outcome, limit, end)
    if small != item and not shows and not _shows_again(runner, small, seen, limit):
        # What ran in the process in between had its part in it.
        progress(f"{outcome.verdict} on {item.case}; shrinking in fresh processes")
        end = time.monotonic() + limits.SHRINK_SECONDS
        small, seen = _smallest(runner, item, outcome, limit, end, fresh=True)
    if small != item:
        # What is told is what the command that is printed finds again, in the shrunk case alone.
        told = runner.diagnosed(small.case, dataclasses.replace(seen, weights=None))
        if not told.like(outcome):
            small, told = _smallest(runner, item, outcome, limit, end, whole=True)
        seen = told
    return small, dataclasses.replace(seen, shows=shows)


def _shows_again(runner: Runner, item: Item, outcome: Outcome, limit: float | None) -> bool:
    """Whether an item has the same verdict in a fresh process, at one of a few tries, since a race
    may come and go."""
    for _ in range(_TRIES):
        runner.fresh()
        if item.run(runner, timeout=limit).verdict is outcome.verdict:
            return True
    return False


def _smallest(
    runner: Runner,
    item: Item,
    outcome: Outcome,
    limit: float | None,
    end: float,
    *,
    reductions: Sequence[Reduction] = REDUCTIONS,
    fresh: bool = False,
    whole: bool = False,
) -> tuple[Item, Outcome]:
    """The smallest item found until ``end`` with the same verdict and the same leading fault in its
    diagnosis, if it has one; with ``fresh``, each is run in a process of its own, and with
    ``whole``, further cases take part in each diagnosis, as in the one that is told.

    A hang is shrunk with a shorter time ``limit``, and the item that results must then hang for the
    whole of the real one.
    """
    hangs = outcome.verdict is Verdict.TIMEOUT
    domain = runner.facts.domain
    found = {item.case: outcome}

    def still(smaller: DecodeCase) -> bool | None:
        if time.monotonic() > end:
            return None
        if domain.refuses(smaller) is not None:
            return False
        if fresh:
            runner.fresh()
        result = item.on(smaller).run(runner, timeout=limit)
        if result.invalid or result.verdict is not outcome.verdict:
            return False
        told = result.explained_by(outcome)
        if outcome.names:
            own = runner.diagnosed(smaller, result, brief=not whole)
            if not own.like(outcome):
                return False
            told = own if whole else told
        found[smaller] = told
        return True

    small = shrink(item.case, still, reductions)
    if hangs and small != item.case:
        confirmed = item.on(small).run(runner)
        return (item.on(small), confirmed) if confirmed.like(outcome) else (item, outcome)
    return item.on(small), found[small]
