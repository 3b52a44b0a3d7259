"""The ledger: how much of its budget each path used on the fixed cases, as recorded.

The budget is a worst-case bound, so a path may become worse than it was and still be within budget;
the ledger shows that: by the share of the budget that is used, and by the share of elements that
equal golden rounded once, which moves long before the budget is reached. There is one JSON file for
each kind of device. An entry's key is path, dtype, mode, kind of data, torch version, hardware,
threads and kernels; a measurement without an entry of its key has "no record" and is never
REGRESSED.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ledger.cases import KINDS, MODES, VERSION
from harness.support.files import write_atomically
from harness.support.strict_json import (
    JsonError,
    Reader,
    fields,
    list_of,
    mapping,
    number,
    one_of,
    read_file,
    text,
    whole,
    with_rows,
)

FOLDER = Path("fixtures") / "tolerances"
SCHEMA = 1
_KEY = ("path", "dtype", "mode", "kind", "torch", "hardware", "threads", "kernels")


class LedgerError(ValueError):
    """A ledger that cannot be read or written; the message names the file and the field."""


class Change(enum.StrEnum):
    """How a measured entry compares with its record."""

    SAME = "same"
    MISSING = "no record"
    UNUSED = "unused"
    LOOSENED = "loosened"
    TIGHTENED = "tightened"


@dataclass(frozen=True)
class Margins:
    """The factors, on recorded worst and median utilisation, within which an entry is the same.

    A utilisation below ``floor`` is as good as exact, and ratios of such numbers mean nothing, so
    it counts as ``floor``. ``precision`` is the factor on the share of elements that are not exact
    and on the median error in units in the last place, which count as ``least`` below it."""

    worst: float = 1.5
    median: float = 1.25
    floor: float = 1e-3
    precision: float = 1.25
    least: float = 1e-2


@dataclass(frozen=True)
class Entry:
    """The errors of one path on the cases of one key.

    Utilisation is error / budget, and ``relative_l2`` the largest relative error, both without a
    unit; ``max_abs`` and ``signed_mean`` (of the worst case) are in units of the output. Over the
    elements of all cases, ``exact`` is the share that equals golden rounded once to the output's
    dtype, ``median_ulp`` the median absolute error and ``bias_ulp`` the mean error away from zero,
    far elements cut off as in ``harness.verdict.precision``, both in units in the last place; None
    in records from before these were measured.
    ``accepted`` lists when a larger error was accepted: date, reason, and the numbers before.
    """

    path: str
    dtype: str
    mode: str
    kind: str
    torch: str
    hardware: str
    threads: int
    cases: int
    worst_utilisation: float
    median_utilisation: float
    relative_l2: float
    max_abs: float
    signed_mean: float
    worst_case: str
    date: str
    environment: Mapping[str, Any]
    kernels: str = "cpp"
    exact: float | None = None
    median_ulp: float | None = None
    bias_ulp: float | None = None
    accepted: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that two entries must share to be comparable."""
        return tuple(getattr(self, name) for name in _KEY)

    @property
    def key_text(self) -> str:
        """The part of the key that a reader needs: path, dtype, mode and kind of data."""
        kernels = () if self.kernels == "cpp" else (self.kernels,)
        return " ".join(map(str, self.key[:4] + kernels))

    @property
    def figures(self) -> str:
        """What is compared, in words."""
        used = f"worst {self.worst_utilisation:.3g}, median {self.median_utilisation:.3g} of the"
        if self.exact is None:
            return f"{used} budget"
        exact = f"{self.exact:.1%} of elements exact, median error {self.median_ulp:.2g} ulp"
        return f"{used} budget, {exact}"

    def against(self, record: Entry, margins: Margins) -> Change:
        """How this measured entry compares with a record of the same key."""
        pairs = [
            (self.worst_utilisation, record.worst_utilisation, margins.worst, margins.floor),
            (self.median_utilisation, record.median_utilisation, margins.median, margins.floor),
        ]
        if self.exact is not None and record.exact is not None:
            factor, least = margins.precision, margins.least
            pairs.append((1 - self.exact, 1 - record.exact, factor, least))
            pairs.append((self.median_ulp or 0.0, record.median_ulp or 0.0, factor, least))
        if any(now > max(before, floor) * margin for now, before, margin, floor in pairs):
            return Change.LOOSENED
        if any(max(now, floor) * margin < before for now, before, margin, floor in pairs):
            return Change.TIGHTENED
        return Change.SAME

    def completed(self, measured: Entry) -> Entry:
        """This record with figures of precision, from a measurement of its key, where it has
        none."""
        if self.exact is not None:
            return self
        found = {name: getattr(measured, name) for name in ("exact", "median_ulp", "bias_ulp")}
        return dataclasses.replace(self, **found)


@dataclass(frozen=True)
class Ledger:
    """All entries of one kind of device, by key."""

    entries: Mapping[tuple[Any, ...], Entry] = field(default_factory=dict)
    margins: Margins = Margins()
    case_list: int = VERSION

    def worst(self, path: str, dtype: str, torch: str) -> float | None:
        """The largest recorded utilisation over modes and kinds of data; None without an entry."""
        wanted = (path, dtype, torch)
        entries = (e for e in self.entries.values() if (e.path, e.dtype, e.torch) == wanted)
        return max((e.worst_utilisation for e in entries), default=None)

    def compare(self, measured: Iterable[Entry]) -> list[tuple[Change, Entry, Entry | None]]:
        """Each measured entry with its record, then the unused records: those of the same torch,
        hardware, threads, mode and dtype for which nothing was measured."""
        measured = list(measured)
        found: list[tuple[Change, Entry, Entry | None]] = []
        for entry in measured:
            record = self.entries.get(entry.key)
            change = entry.against(record, self.margins) if record else Change.MISSING
            found.append((change, entry, record))
        keys = {entry.key for entry in measured}
        scopes = {e.key[1:3] + e.key[4:] for e in measured}
        for key, record in self.entries.items():
            if key not in keys and key[1:3] + key[4:] in scopes:
                found.append((Change.UNUSED, record, record))
        return found

    def updated(self, measured: Iterable[Entry], accept: str = "", date: str = "") -> Ledger:
        """A ledger with new and tightened entries, and with loosened ones if ``accept`` says why.

        An entry within the margins keeps its record, so that many small changes cannot add up;
        figures of precision that the record lacks are added to it.

        Raises:
            LedgerError: where an entry is loosened and no reason was given.
        """
        entries = dict(self.entries)
        for change, entry, record in self.compare(measured):
            if change is Change.SAME and record is not None:
                entries[entry.key] = record.completed(entry)
            elif change in (Change.MISSING, Change.TIGHTENED):
                accepted = record.accepted if record else ()
                entries[entry.key] = dataclasses.replace(entry, accepted=accepted)
            elif change is Change.LOOSENED:
                assert record is not None
                if not accept.strip():
                    raise LedgerError(f"{entry.key_text} is loosened: --accept needs a reason")
                before = {
                    "date": date,
                    "reason": accept,
                    "worst_before": record.worst_utilisation,
                    "median_before": record.median_utilisation,
                    "exact_before": record.exact,
                }
                entries[entry.key] = dataclasses.replace(entry, accepted=(*record.accepted, before))
        return dataclasses.replace(self, entries=entries)


def ledger_file(device: str) -> Path:
    """The ledger's file for a device: ``fixtures/tolerances/cpu.json`` or ``cuda.json``."""
    return FOLDER / f"{device.partition(':')[0]}.json"


def save(ledger: Ledger, file: Path) -> None:
    """Replace the ledger's file, with one entry on each line.

    Raises:
        UnwritableFile: where the file cannot be written; the message has the reason.
    """
    head = {
        "schema": SCHEMA,
        "case_list": ledger.case_list,
        "margins": dataclasses.asdict(ledger.margins),
    }
    order = sorted(ledger.entries.values(), key=lambda e: e.key)
    known = ({name: x for name, x in vars(e).items() if x is not None} for e in order)
    write_atomically(file, with_rows(head, "entries", known))


_utilisation, _size = number(0.0, 1.0), number(0.0)
_ENTRY: dict[str, Reader[Any]] = {
    "path": text,
    "dtype": text,
    "mode": one_of(*MODES),
    "kind": one_of(*KINDS),
    "torch": text,
    "hardware": text,
    "threads": whole(1),
    "cases": whole(1),
    # A utilisation above 1 is WRONG and never recorded.
    "worst_utilisation": _utilisation,
    "median_utilisation": _utilisation,
    "relative_l2": _size,
    "max_abs": _size,
    "signed_mean": number(),
    "worst_case": text,
    "date": text,
    "environment": mapping,
    "accepted": list_of(mapping),
}
# Before there were others, all kernels were C++; before precision was recorded, there was none.
_LATER: dict[str, Reader[Any]] = {
    "kernels": one_of("cpp", "triton"),
    "exact": _utilisation,
    "median_ulp": _size,
    "bias_ulp": number(),
}


def load(file: Path) -> Ledger:
    """Read a ledger from its file.

    Raises:
        LedgerError: for anything but what ``save`` writes; the message names the file and the
            field.
    """
    return read_file(file, read_ledger, LedgerError)


def read_ledger(document: Any) -> Ledger:
    """Read a ledger from decoded JSON.

    Raises:
        JsonError: for anything but a ledger; the message names the field.
    """
    # Before precision was recorded there were no margins for it.
    margins = dict.fromkeys(("worst", "median", "floor"), _size)
    later = dict.fromkeys(("precision", "least"), _size)
    values = fields(
        document,
        {
            "schema": one_of(SCHEMA),
            "case_list": whole(),
            "margins": lambda value: Margins(**fields(value, margins, later)),
            "entries": list_of(_entry),
        },
    )
    by_key = {entry.key: entry for entry in values["entries"]}
    if len(by_key) < len(values["entries"]):
        raise JsonError("a key is there twice", "entries")
    return Ledger(by_key, values["margins"], values["case_list"])


def _entry(value: Any) -> Entry:
    values = fields(value, _ENTRY, _LATER)
    return Entry(**{**values, "accepted": tuple(values["accepted"])})
