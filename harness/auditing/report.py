"""Report: what the attention calls in a block showed, as text and as plain values."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from harness.auditing.blame import Blame, few
from harness.auditing.coverage import WHAT_TO_DO, Coverage
from harness.auditing.differing import Difference
from harness.auditing.remedies import remedy
from harness.auditing.sighting import Sighting
from harness.auditing.slots_text import difference_lines, sighting_lines
from harness.verdict import Verdict

_WIDTH = 100
# So many calls and differences are printed; wrong ones, and those that differ, before others.
_LISTED = 12


@dataclass
class Told:
    """A call or a difference as lines of text and as plain values; ``first`` where it is to be
    listed before others."""

    number: int
    lines: list[str]
    entry: dict[str, Any]
    first: bool


@dataclass
class Report:
    """What the calls in a block showed.

    ``calls`` were made in forwards of the ``model`` (without one: in the block), taken to be as
    many in a forward that was not watched as in the last that was. Of ``judged`` of them the kernel
    was held against their own mask, of ``placed`` the mask against the slots in which their tokens
    lie. ``passed_over`` counts the calls that could not be judged, by function and reason.
    ``blame`` is of the first that was off, or None; ``forward`` counts from 0. ``silent`` are the
    numbers of forwards without a call, ``elsewhere`` the calls outside of the model's ``forwards``.
    ``left_out`` calls were not kept to compare later ones with.
    """

    model: nn.Module | None = None
    calls: int = 0
    judged: int = 0
    placed: int = 0
    blame: Blame | None = None
    forward: int = 0
    forwards: int = 0
    silent: list[int] = field(default_factory=list)
    elsewhere: int = 0
    left_out: int = 0
    passed_over: Counter[tuple[str, str]] = field(default_factory=Counter)
    coverage: Coverage | None = None
    told: list[Told] = field(default_factory=list)
    differences: list[Told] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """WRONG, OK of what was judged, or UNSUPPORTED where no call was judged."""
        if self.blame is not None:
            return Verdict.WRONG
        return Verdict.OK if self.judged else Verdict.UNSUPPORTED

    @property
    def complete(self) -> bool:
        """Whether all calls that were met were judged, and none differs from another."""
        return not self.passed_over and not self.differences

    def add(self, call: Sighting, differences: list[Difference]) -> None:
        """Keep a call and how it differs from earlier ones."""
        wrong = call.blame is not None or bool(call.reason)
        if self.model is None or wrong or differences:
            self.told.append(Told(call.number, [*sighting_lines(call)], _entry(call), wrong))
        for found in differences:
            entry, numbers = _difference(found), (found.first.number, found.second.number)
            self.differences.append(Told(call.number, [*difference_lines(found)], entry, True))
            for told in self.told:
                told.first = told.first or told.number in numbers

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from textwrap.wrap(self._headline(), _WIDTH, subsequent_indent="   ")
        for what in self.not_judged():
            yield from textwrap.wrap(
                f"not judged: {what}", _WIDTH, initial_indent="   ", subsequent_indent="     "
            )
        if self.blame is not None and self.model is not None:
            at = f"forward {self.forward}, layer {self.blame.layer}"
            yield f"  {self.blame.what}, first in {at}, sequence {self.blame.sequence}"
            yield from (f"  {clause}" for clause in self.blame.evidence)
            yield f"  remedy: {remedy(self.blame)}"
        for told, what in ((self.told, "calls"), (self.differences, "differences")):
            shown = sorted(told, key=lambda one: not one.first)[:_LISTED]
            for one in sorted(shown, key=lambda one: one.number):
                yield from ("", *one.lines)
            if len(told) > len(shown):
                yield from ("", f"and {len(told) - len(shown)} more {what}, which --json lists")

    def _headline(self) -> str:
        alone = self.verdict is Verdict.OK and any(self.not_judged())
        of = "of what was judged: " if alone else ""
        of += f"{self.judged} of {self.calls} attention calls judged against their own masks"
        if self.model is not None:
            of += f", {self.placed} of their masks by the slots that were written"
        if self.differences:
            count = len(self.differences)
            pairs = "1 pair" if count == 1 else f"{count} pairs"
            of += f"; {pairs} of calls on the same keys and values differ"
        return f"{self.verdict} {of}"

    def not_judged(self) -> Iterator[str]:
        """What was not judged, and why, with what to do."""
        for (function, reason), count in self.passed_over.items():
            yield f"{_calls(count)} of {function}: {reason}"
        masks = self.judged - self.placed
        if self.model is None and masks:
            yield (
                f"whether the masks are right, {masks} of {masks}: nothing says here which slots a"
                " query should attend"
            )
        elif masks > 0:
            yield (
                f"{masks} of {self.judged} masks, which had nothing to be held against: it was not"
                " seen which slots their tokens were written to"
            )
        unseen = [] if self.coverage is None else [*self.coverage.lines()]
        yield from unseen
        if self.silent and not unseen:
            yield f"forward {few(self.silent)}: no attention call was seen"
        if self.elsewhere:
            yield (
                f"{_calls(self.elsewhere)} of attention outside of the forwards of"
                f" {type(self.model).__name__}: give audit the model that runs, or none"
            )
        if self.left_out:
            yield f"{_calls(self.left_out)}, too large to be kept, with later ones"
        if unseen or self.silent or not self.calls:
            yield f"what is not seen: {WHAT_TO_DO}"

    def to_values(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "verdict": self.verdict,
            "calls": self.calls,
            "judged": self.judged,
            "masks_judged": self.placed,
            "not_judged": list(self.not_judged()),
            "attention_calls": [told.entry for told in self.told],
            "differences": [told.entry for told in self.differences],
        }


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _entry(call: Sighting) -> dict[str, Any]:
    batch, heads, rows, slots = call.attended.shape
    wrong = "WRONG" if call.blame is not None else "OK"
    return {
        "call": call.number,
        "function": call.named,
        "where": call.where.strip(" ()"),
        "dtype": call.dtype,
        "shape": {"sequences": batch, "heads": heads, "queries": rows, "slots": slots},
        "filled": [int(n) for n in call.filled.sum(-1)],
        "attends": [
            [few(row.nonzero().flatten().tolist()) for row in sequence.any(0)]
            for sequence in call.attended
        ],
        "verdict": None if call.reason else wrong,
        "budgets": call.used,
        "reason": call.reason,
    }


def _difference(found: Difference) -> dict[str, Any]:
    (a, i), (b, j) = found.rows[0]
    return {
        "calls": [found.first.number, found.second.number],
        "rows": [{"sequence": a, "row": i}, {"sequence": b, "row": j}],
        "rows_that_differ": len(found.rows),
        "rows_compared": found.compared,
        "slots": found.slots,
        "first_alone": few(list(found.first_alone)),
        "second_alone": few(list(found.second_alone)),
        "largest_difference": found.largest,
        "relative_l2": found.relative,
    }
