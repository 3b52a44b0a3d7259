"""What the figures show, as plain values: computed by ``measure``, put into words by ``captions``,
drawn by ``plots`` and ``heatmaps``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.case import DTYPES
from harness.figures.results import Catch, Kill, Results


@dataclass(frozen=True)
class Side:
    """The weights ``[heads][slots]`` that a path gives to the first slots of the cache, with the
    position that its mask takes the query to be at."""

    path: str
    position: int
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Attended:
    """Both sides of the report: what one query at ``position`` attends."""

    case: str
    position: int
    reported: Side
    full: Side


@dataclass(frozen=True)
class ErrorCurve:
    """The largest absolute error of a path at each position, in units of the values; ``within``
    says whether every element kept its budget. None where the path does not take the case."""

    path: str
    known_wrong: bool
    largest: tuple[float | None, ...]
    within: tuple[bool, ...]


@dataclass(frozen=True)
class Errors:
    """Error against position; ``budget`` is the largest over the elements."""

    case: str
    positions: tuple[int, ...]
    budget: tuple[float, ...]
    curves: tuple[ErrorCurve, ...]


@dataclass(frozen=True)
class Share:
    """The largest share of the rounding budget: measured here, and in the ledger or None."""

    path: str
    dtype: str
    here: float | None
    record: float | None


@dataclass(frozen=True)
class Utilisation:
    """Shares by path and dtype. ``ledger`` says on what they were recorded; None without a
    ledger. ``margin`` is the factor on the record from which on a path has regressed."""

    cases: tuple[str, ...]
    shares: tuple[Share, ...]
    ledger: str | None
    margin: float | None


@dataclass(frozen=True)
class Cell:
    """Out of ``total`` runs, how many a rule refused."""

    caught: int
    total: int


@dataclass(frozen=True)
class Matrix:
    """Planted faults (rows: name and kind) against rules (columns: whose, which). A cell is None
    where nothing was run. ``missing`` names what was not recorded."""

    rows: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class TimeCurve:
    """Median milliseconds of a step at each position, and ``how`` the path runs."""

    path: str
    how: str
    milliseconds: tuple[float, ...]


@dataclass(frozen=True)
class Times:
    """Step time against position."""

    case: str
    device: str
    positions: tuple[int, ...]
    curves: tuple[TimeCurve, ...]
    note: str
    calls: int


@dataclass(frozen=True)
class GraphCurve:
    """How many graphs there are after each step, and what makes one necessary."""

    name: str
    graphs: tuple[int, ...]


@dataclass(frozen=True)
class Graphs:
    """Graphs against steps; ``limit`` is where torch stops compiling."""

    curves: tuple[GraphCurve, ...]
    limit: int


Figure = Attended | Errors | Utilisation | Matrix | Times | Graphs


def matrix(recorded: Results) -> Matrix:
    """Faults against rules: the harness by dtype, then the other projects' rules."""
    kills, catches = recorded.kills or (), recorded.catches or ()
    numbers = {k.fault: (k.number, k.kind) for k in kills}
    names = dict.fromkeys(
        [*sorted(numbers, key=lambda name: numbers[name]), *(c.fault for c in catches)]
    )
    rows = tuple((name, numbers[name][1] if name in numbers else "") for name in names)
    dtypes = sorted({k.dtype for k in kills}, key=lambda d: (*DTYPES, d).index(d))
    rules = list(dict.fromkeys(c.rule for c in catches))
    columns = [("this harness", d) for d in dtypes] + [("other projects' rules", r) for r in rules]
    missing = []
    if recorded.kills is None:
        missing.append(
            "kill matrix not recorded: python -m harness faults --json fixtures/kill-matrix.json"
        )
    if recorded.catches is None:
        missing.append("other projects' rules not recorded: there is no fixtures/rivals.json")
    cells = tuple(
        (
            *(_killed([k for k in kills if (k.fault, k.dtype) == (name, d)]) for d in dtypes),
            *(_caught([c for c in catches if (c.fault, c.rule) == (name, r)]) for r in rules),
        )
        for name in names
    )
    return Matrix(rows, tuple(columns), cells, tuple(missing))


def _killed(kills: list[Kill]) -> Cell | None:
    return Cell(sum(k.killed_by is not None for k in kills), len(kills)) if kills else None


def _caught(catches: list[Catch]) -> Cell | None:
    if not catches:
        return None
    return Cell(sum(c.caught for c in catches), sum(c.total for c in catches))


def name_of(figure: Figure) -> str:
    """What a figure is called in files and links."""
    return type(figure).__name__.lower()


def as_plain(figures: Sequence[Figure]) -> dict[str, object]:
    """The figures as plain values for JSON, by name."""
    return {name_of(f): dataclasses.asdict(f) for f in figures}
