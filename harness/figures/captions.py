"""The words of each figure: its title, what it shows, a text in place of the picture for those who
cannot see it, and the numbers as a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

from harness.figures.values import (
    Attended,
    Errors,
    Figure,
    Graphs,
    History,
    Matrix,
    Side,
    TimeCurve,
    Times,
    Utilisation,
)

Row = tuple[str, ...]


@dataclass(frozen=True)
class Caption:
    """The words of one figure.

    ``seen`` says in a sentence or two what the picture shows, and ``how`` how that was measured;
    ``alt`` describes the picture; ``header`` and ``rows`` are its numbers as a table. ``empty``
    says, where there is no picture, why there is none."""

    title: str
    seen: str
    how: str
    alt: str
    header: Row
    rows: tuple[Row, ...]
    empty: str = ""


@singledispatch
def caption(figure: Figure) -> Caption:
    """The caption of a figure."""
    raise NotImplementedError(type(figure).__name__)


def number(value: float | None) -> str:
    """A number with three digits, as text; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def spread(curve: TimeCurve, index: int) -> str:
    """The time at one of the positions, as text: the median and, in brackets, the quartiles."""
    middle, *ends = (of[index] for of in (curve.milliseconds, curve.lower, curve.upper))
    return f"{number(middle)} ({' to '.join(map(number, ends))})"


def listed(names: Sequence[str]) -> str:
    """The names as text: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def slot_count(side: Side) -> int:
    """The number of slots that get any weight in any head."""
    return sum(any(column) for column in zip(*side.weights, strict=True))


@caption.register
def _(figure: Attended) -> Caption:
    sides = (figure.reported, figure.full)
    slots = len(figure.full.weights[0])

    def share(side: Side, first: int, last: int) -> str:
        heads = len(side.weights)
        return f"{sum(sum(row[first:last]) for row in side.weights) / heads:.1%}"

    filled = figure.position + 1
    alone = "slot 0 alone" if share(figure.reported, 0, 1) == "100.0%" else "other slots"
    seen = (
        f"The decode step's query sits at position {figure.position}, so it should attend slots 0"
        f" to {figure.position}. The report's sliced cache attends {slot_count(figure.reported)}"
        f" slot{'s' if slot_count(figure.reported) != 1 else ''}; the full cache, whose mask adds"
        f" the query's position, attends {slot_count(figure.full)}."
    )
    return Caption(
        f"The finding: the report's slice attends {alone}",
        seen,
        f"Weights read off the paths themselves on {figure.case}: where slot j holds the unit"
        " vector e_j as its value, the output is the attention weights.",
        f"Two heat maps of attention weight, query head by cache slot, for slots 0 to {slots - 1}."
        f" In the upper one, the report's slice, all weight lies in {slot_count(figure.reported)}"
        f" of {filled} filled slots, at the left edge. In the lower one, the full cache with the"
        f" query offset, weight is spread over {slot_count(figure.full)} slots, 0 to"
        f" {figure.position}, and the slots after them get none.",
        (
            "path",
            "query taken to be at",
            "slots attended",
            "weight on slot 0",
            f"on the other {filled - 1} filled slots",
            "on unused slots",
        ),
        tuple(
            (
                s.path,
                str(s.position),
                str(slot_count(s)),
                share(s, 0, 1),
                share(s, 1, filled),
                share(s, filled, slots),
            )
            for s in sides
        ),
    )


@caption.register
def _(figure: Errors) -> Caption:
    inside = [c.path for c in figure.curves if all(c.within)]
    outside = [c for c in figure.curves if not all(c.within)]
    said = (
        [f"{listed(inside)} stay within the rounding budget at every position."] if inside else []
    )
    for curve in outside:
        silent = sum(value is None for value in curve.largest)
        wrong = len(curve.within) - sum(curve.within) - silent
        of = f"of {len(figure.positions)} positions"
        known = " (known wrong, there to be shown wrong)" if curve.known_wrong else ""
        if wrong:
            said.append(f"{curve.path} exceeds it at {wrong} {of}{known}.")
        if silent:
            said.append(f"{curve.path} gives no output at {silent} {of}.")
    header = ("position", "budget", *(c.path for c in figure.curves))
    rows = tuple(
        (
            str(position),
            number(figure.budget[i]),
            *(
                number(c.largest[i]) + ("" if c.within[i] or c.largest[i] is None else " beyond")
                for c in figure.curves
            ),
        )
        for i, position in enumerate(figure.positions)
    )
    return Caption(
        "Error against position",
        " ".join(said),
        f"{figure.case} with the query at each position: the largest absolute error of any output"
        " element against float64, in units of the values (standard normal). The band ends at the"
        " largest budget of any element; the verdict compares element by element, and x marks"
        " where one exceeds its own.",
        f"Lines of the largest error over query position {figure.positions[0]} to"
        f" {figure.positions[-1]}, log scale, above a band of what rounding explains. "
        + " ".join(said),
        header,
        rows,
    )


@caption.register
def _(figure: Utilisation) -> Caption:
    measured = [s for s in figure.shares if s.here is not None]
    worst = max(measured, key=lambda s: s.here or 0.0, default=None)
    seen = "Nothing could be measured."
    if worst is not None:
        seen = (
            f"The largest share of the rounding budget is {number(worst.here)}, of {worst.path} in"
            f" {worst.dtype}; 1 is the whole budget."
        )
    record = (
        f"The ledger's record is the worst over its own cases, modes and kinds ({figure.ledger});"
        f" a path has regressed beyond {number(figure.margin)} times its record."
        if figure.ledger
        else "No record: there is no ledger to compare with."
    )
    return Caption(
        "Share of the rounding budget, by path and dtype",
        f"{seen} {record}",
        f"Measured here: the largest error in units of the budget over {len(figure.cases)} cases"
        f" per dtype, eager: {'; '.join(figure.cases)}.",
        f"Dots for {len(figure.shares)} pairs of path and dtype on a log scale that ends at the"
        f" whole budget. {seen} {record}",
        ("path", "dtype", "here", "ledger's record"),
        tuple(
            (s.path, s.dtype, number(s.here), number(s.record) if s.record else "no record")
            for s in figure.shares
        ),
    )


@caption.register
def _(figure: Matrix) -> Caption:
    said = []
    for group in dict.fromkeys(group for group, _ in figure.columns):
        counts = []
        for j, (own, name) in enumerate(figure.columns):
            ran = [row[j] for row in figure.cells if row[j] is not None]
            if own == group:
                whole = sum(c.caught == c.total for c in ran if c is not None)
                counts.append(f"{name} {whole} of {len(ran)}")
        said.append(f"Faults refused in every run by {group}: {', '.join(counts)}.")
    empty = "" if figure.columns else "; ".join(figure.missing)
    seen = "" if empty else " ".join([*said, *(f"Missing: {m}." for m in figure.missing)])
    return Caption(
        "Planted faults: what finds them",
        seen,
        "Each cell: in what share of the runs the fault was refused, over the scopes in which it"
        " was planted (all, one sequence, one head, at an edge). A dash: not run.",
        f"Heat map of {len(figure.rows)} planted faults against {len(figure.columns)} rules;"
        f" darker is refused more often, hatched is let pass. {seen}",
        ("fault", "kind", *(name for _, name in figure.columns)),
        tuple(
            (name, kind, *("-" if c is None else f"{c.caught}/{c.total}" for c in row))
            for (name, kind), row in zip(figure.rows, figure.cells, strict=True)
        ),
        empty,
    )


@caption.register
def _(figure: Times) -> Caption:
    first, last = figure.positions[0], figure.positions[-1]
    seen = " ".join(
        f"{c.path} ({c.how}): {number(c.milliseconds[0])} ms at position {first},"
        f" {number(c.milliseconds[-1])} ms at {last}."
        for c in figure.curves
    )
    threads = "one thread, " if figure.device == "cpu" else ""
    return Caption(
        "Time of a step against position",
        f"{seen} {figure.note}".strip(),
        f"{figure.case} on {figure.device}, {threads}{figure.rounds} rounds over all points, in"
        f" each of them the median of {figure.calls} calls. A point is the median of the rounds;"
        " its bar goes over the middle half of them. The fixed path makes its block table"
        " inside the step; the making of the slice and of SDPA's mask is not in their times.",
        f"Lines of milliseconds per step over position {first} to {last}, each point with a bar"
        f" over the middle half of the rounds. {seen}",
        ("position", *(f"{c.path}, ms ({c.how}), middle half" for c in figure.curves)),
        tuple(
            (str(position), *(spread(c, i) for c in figure.curves))
            for i, position in enumerate(figure.positions)
        ),
    )


@caption.register
def _(figure: Graphs) -> Caption:
    steps = len(figure.curves[0].graphs)
    one = [c.name for c in figure.curves if c.graphs[-1] == 1]
    many = [c for c in figure.curves if c.graphs[-1] > 1]
    said = [f"{c.name}: {c.graphs[-1]} graphs in {steps} steps." for c in many]
    if one:
        said.append(f"{listed(one)}: one graph serves all.")
    seen = " ".join(said)
    return Caption(
        "Graphs compiled against steps taken",
        f"{seen} torch stops compiling a function after {figure.limit} graphs.",
        "torch.compile's eager backend, which traces and guards like any other and compiles"
        " nothing; the limit is lifted so that the count goes on.",
        f"Step lines of graphs compiled over {steps} decode steps, with torch's limit of"
        f" {figure.limit} marked. {seen}",
        ("steps", *(c.name for c in figure.curves)),
        tuple((str(i + 1), *(str(c.graphs[i]) for c in figure.curves)) for i in range(steps)),
    )


@caption.register
def _(figure: History) -> Caption:
    words = {True: "shows", False: "does not show", None: "-"}
    seen = " ".join([*_findings_over_versions(figure), *_shares_over_versions(figure)])
    return Caption(
        "Over versions of torch",
        " ".join(filter(None, [seen, *(f"{m[0].upper()}{m[1:]}." for m in figure.missing)])),
        "Recorded, not measured here: the largest error in units of the rounding budget over all"
        f" cases, modes and kinds of the ledger ({figure.hardware or 'nothing'}), and whether the"
        " script of each finding shows it.",
        f"A grid with a column for each of {len(figure.versions)} versions of torch: numbers for"
        f" {len(figure.shares)} pairs of path and dtype, a word for {len(figure.findings)}"
        f" findings. {seen}",
        ("", *figure.versions),
        (
            *((f"{path} {dtype}", *map(number, shares)) for path, dtype, shares in figure.shares),
            *((name, *(words[s] for s in shown)) for name, shown in figure.findings),
        ),
        "" if figure.versions else f"Nothing to draw: {'; '.join(figure.missing)}.",
    )


def _findings_over_versions(figure: History) -> list[str]:
    """Which findings appear or go; or that none does, of those recorded with several versions."""
    said, compared = [], False
    for name, shown in figure.findings:
        known = [(v, s) for v, s in zip(figure.versions, shown, strict=True) if s is not None]
        for (_, before), (version, now) in itertools.pairwise(known):
            compared = True
            if before != now:
                said.append(f"{name} {'appears' if now else 'goes'} with {version}.")
    if figure.findings and not compared:
        return ["Each finding is recorded with one version at most, so that none can be compared."]
    return said or ["No finding appears or goes."] * compared


def _shares_over_versions(figure: History) -> list[str]:
    """Which shares of the budget grow or shrink; or that none does."""
    said, compared = [], False
    for path, dtype, shares in figure.shares:
        recorded = [s for s in shares if s is not None]
        compared |= len(recorded) > 1
        if recorded and max(recorded) > figure.margin * min(recorded):
            said.append(
                f"The largest share of {path} in {dtype} is between {number(min(recorded))} and"
                f" {number(max(recorded))}."
            )
    if figure.shares and not compared:
        return ["Each share is recorded with one version, so that none can be compared."]
    return said or ["No share of the budget changes by more than the ledger allows."] * compared
