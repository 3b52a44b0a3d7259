"""What the figures show, as plain values, which ``measure`` computes, ``captions`` puts into words,
and ``plots`` and ``heatmaps`` draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.case import DTYPES
from harness.figures.results import Catch, Kill, Results
from harness.support.text import version_order


@dataclass(frozen=True)
class Side:
    """One side of the report: the weights ``[heads][slots]`` that a path gives to the first slots
    of the cache, and the position at which its mask takes the query to be."""

    path: str
    position: int
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Attended:
    """The slots that a query at ``position`` attends, on both sides of the report."""

    case: str
    position: int
    reported: Side
    full: Side


@dataclass(frozen=True)
class ErrorCurve:
    """The largest absolute error of a path at each position, in units of the values, or None where
    the path gives no output; ``within`` says whether every element is within its budget."""

    path: str
    known_wrong: bool
    largest: tuple[float | None, ...]
    within: tuple[bool, ...]


@dataclass(frozen=True)
class Errors:
    """The errors of all paths over positions; ``budget`` is the largest budget of any element, in
    units of the values."""

    case: str
    positions: tuple[int, ...]
    budget: tuple[float, ...]
    curves: tuple[ErrorCurve, ...]


@dataclass(frozen=True)
class Share:
    """The largest utilisation of a path in a dtype: measured here, and as recorded in the ledger;
    None where there is none."""

    path: str
    dtype: str
    here: float | None
    record: float | None


@dataclass(frozen=True)
class Utilisation:
    """The utilisation of every path in every dtype.

    ``ledger`` says on which torch and hardware records were made; None without a ledger. A path has
    regressed where its utilisation exceeds its record times ``margin``."""

    cases: tuple[str, ...]
    shares: tuple[Share, ...]
    ledger: str | None
    margin: float | None


@dataclass(frozen=True)
class Cell:
    """The number of runs, out of ``total``, in which a rule caught a fault."""

    caught: int
    total: int


@dataclass(frozen=True)
class Matrix:
    """Planted faults against acceptance rules.

    Rows are (name, kind) of faults, columns (whose rules, which rule). A cell is None where nothing
    was run. ``missing`` has sentences about results that were not recorded."""

    rows: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class TimeCurve:
    """The time of a path's step at each position, in milliseconds, and ``how`` it runs: the median
    of the rounds, and their ``lower`` and ``upper`` quartile."""

    path: str
    how: str
    milliseconds: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True)
class Times:
    """The time of a step over positions, in ``rounds`` of each the median of ``calls`` calls."""

    case: str
    device: str
    positions: tuple[int, ...]
    curves: tuple[TimeCurve, ...]
    note: str
    rounds: int
    calls: int


@dataclass(frozen=True)
class GraphCurve:
    """The number of graphs after each step, for one way to tell the mask the position."""

    name: str
    graphs: tuple[int, ...]


@dataclass(frozen=True)
class Graphs:
    """The number of graphs over steps; torch stops compiling a function after ``limit`` graphs."""

    curves: tuple[GraphCurve, ...]
    limit: int


@dataclass(frozen=True)
class History:
    """What versions of torch changed, a column for each.

    ``shares`` has the largest recorded utilisation of a path in a dtype, on the ``hardware`` and
    number of threads of which most versions were recorded, which has lost nothing where it grew by
    less than the ``margin``; ``findings`` say whether a script shows its defect. None where nothing
    was recorded; ``missing`` has sentences about that."""

    versions: tuple[str, ...]
    hardware: str
    margin: float
    shares: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    findings: tuple[tuple[str, tuple[bool | None, ...]], ...]
    missing: tuple[str, ...]


Figure = Attended | Errors | Utilisation | Matrix | Times | Graphs | History


def matrix(recorded: Results) -> Matrix:
    """The matrix of planted faults against rules: this harness in each dtype, then the other
    projects' rules."""
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


def history(recorded: Results) -> History:
    """The history of what was recorded with several versions of torch."""
    entries = [] if recorded.ledger is None else [*recorded.ledger.entries.values()]
    versions: dict[tuple[str, int], set[str]] = {}
    for entry in entries:
        versions.setdefault((entry.hardware, entry.threads), set()).add(entry.torch)
    place = max(versions, key=lambda key: (len(versions[key]), key), default=("", 0))
    largest: dict[tuple[str, str], dict[str, float]] = {}
    for entry in entries:
        if (entry.hardware, entry.threads) == place:
            own = largest.setdefault((entry.path, entry.dtype), {})
            own[entry.torch] = max(own.get(entry.torch, 0.0), entry.worst_utilisation)
    shown: dict[str, dict[str, bool | None]] = {}
    for one in recorded.findings or ():
        shown.setdefault(one.script, {})[one.torch] = one.shows
    every = [*(v for of in largest.values() for v in of), *(v for of in shown.values() for v in of)]
    names = sorted(set(every), key=version_order)
    missing = []
    if not largest:
        missing.append("no tolerances recorded: python -m harness record")
    if not shown:
        missing.append(
            "no findings recorded: python -m harness versions SCRIPT ... --json"
            " fixtures/findings.json"
        )
    return History(
        tuple(names),
        f"{place[0]}, {place[1]} thread{'s' if place[1] != 1 else ''}" if largest else "",
        recorded.ledger.margins.worst if recorded.ledger else 1.0,
        tuple((*key, tuple(map(of.get, names))) for key, of in sorted(largest.items())),
        tuple((name, tuple(map(of.get, names))) for name, of in shown.items()),
        tuple(missing),
    )


def _killed(kills: list[Kill]) -> Cell | None:
    return Cell(sum(k.killed_by is not None for k in kills), len(kills)) if kills else None


def _caught(catches: list[Catch]) -> Cell | None:
    if not catches:
        return None
    return Cell(sum(c.caught for c in catches), sum(c.total for c in catches))


def name_of(figure: Figure) -> str:
    """The name of a figure in files and links."""
    return type(figure).__name__.lower()


def as_plain(figures: Sequence[Figure]) -> dict[str, object]:
    """The figures as plain values for JSON, by name."""
    return {name_of(f): dataclasses.asdict(f) for f in figures}
