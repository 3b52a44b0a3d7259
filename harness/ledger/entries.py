"""The ledger: how much of its budget each path used on the fixed cases, as recorded.

The budget is safe for every input; the ledger is sharp. A path may be within budget and still have
become worse than it was. One JSON file for each kind of device, by key: path, dtype, mode, kind of
data, torch version, hardware, threads. No matching key means "no record", which is never REGRESSED.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.ledger.cases import KINDS, MODES, VERSION
from harness.support.files import write_atomically

FOLDER = Path("fixtures") / "tolerances"
SCHEMA = 1
_KEY = ("path", "dtype", "mode", "kind", "torch", "hardware", "threads")


class LedgerError(ValueError):
    """A ledger that cannot be read or written; the message names the file and the field."""


class Change(enum.StrEnum):
    """How a measured entry stands to its record."""

    SAME = "same"
    MISSING = "no record"
    UNUSED = "unused"
    LOOSENED = "loosened"
    TIGHTENED = "tightened"


@dataclass(frozen=True)
class Margins:
    """Factors on the recorded worst and median utilisation within which an entry is the same; what
    is below ``floor`` is as good as exact, and its ratios say nothing."""

    worst: float = 1.5
    median: float = 1.25
    floor: float = 1e-3


@dataclass(frozen=True)
class Entry:
    """Figures of one path on the cases of one key.

    Utilisation is error / budget (a number without unit); ``relative_l2`` (worst), ``max_abs`` and
    ``signed_mean`` (of the worst case) are in units of the output. ``accepted`` lists the times
    that a loosened figure was accepted: date, reason, and the figures before.
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
    accepted: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two entries comparable."""
        return tuple(getattr(self, name) for name in _KEY)

    @property
    def key_text(self) -> str:
        """The key for a reader."""
        return " ".join(map(str, self.key[:4]))

    def against(self, record: Entry, margins: Margins) -> Change:
        """How these measured figures stand to a record of the same key."""
        pairs = (
            (self.worst_utilisation, record.worst_utilisation, margins.worst),
            (self.median_utilisation, record.median_utilisation, margins.median),
        )
        if any(now > max(before, margins.floor) * margin for now, before, margin in pairs):
            return Change.LOOSENED
        if any(max(now, margins.floor) * margin < before for now, before, margin in pairs):
            return Change.TIGHTENED
        return Change.SAME


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
        """Each measured entry with its record, then the records of the same torch, hardware,
        threads, mode and dtype that nothing was measured for."""
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
        An entry within the margins keeps its record, so that it cannot creep.

        Raises:
            LedgerError: where an entry is loosened and no reason was given.
        """
        entries = dict(self.entries)
        for change, entry, record in self.compare(measured):
            if change in (Change.MISSING, Change.TIGHTENED):
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
                }
                entries[entry.key] = dataclasses.replace(entry, accepted=(*record.accepted, before))
        return dataclasses.replace(self, entries=entries)


def ledger_file(device: str) -> Path:
    """``fixtures/tolerances/cpu.json`` or ``cuda.json``."""
    return FOLDER / f"{device.partition(':')[0]}.json"


def save(ledger: Ledger, file: Path) -> None:
    """Replace the file, one entry a line.

    Raises:
        UnwritableFile: with the reason.
    """
    head = {
        "schema": SCHEMA,
        "case_list": ledger.case_list,
        "margins": dataclasses.asdict(ledger.margins),
    }
    order = sorted(ledger.entries.values(), key=lambda e: e.key)
    lines = ",\n".join("  " + json.dumps(vars(e), allow_nan=False) for e in order)
    write_atomically(file, f'{json.dumps(head, indent=1)[:-2]},\n "entries": [\n{lines}\n ]\n}}\n')


def load(file: Path) -> Ledger:
    """Read a ledger, strictly.

    Raises:
        LedgerError: naming the file and the field, for anything but what ``save`` writes.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise LedgerError(f"{file}: {error}") from None
    try:
        _keys(document, {"schema", "case_list", "margins", "entries"}, "ledger")
        if document["schema"] != SCHEMA:
            raise LedgerError(f"schema: {document['schema']!r} is not {SCHEMA}")
        if type(document["case_list"]) is not int:
            raise LedgerError(f"case_list: {document['case_list']!r} is not a whole number")
        _keys(document["margins"], {f.name for f in dataclasses.fields(Margins)}, "margins")
        margins = Margins(**{k: _number(k, v, low=0.0) for k, v in document["margins"].items()})
        if not isinstance(document["entries"], list):
            raise LedgerError("entries: is not a list")
        entries = [_entry(value, i) for i, value in enumerate(document["entries"])]
    except LedgerError as error:
        raise LedgerError(f"{file}: {error}") from None
    by_key = {entry.key: entry for entry in entries}
    if len(by_key) < len(entries):
        raise LedgerError(f"{file}: entries: a key is there twice")
    return Ledger(by_key, margins, document["case_list"])


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that a ledger may hold")


def _keys(value: Any, wanted: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise LedgerError(f"{what}: is not an object")
    if unknown := set(value) - wanted:
        raise LedgerError(f"{what}: unknown key {min(unknown)!r}; keys are {sorted(wanted)}")
    if missing := wanted - set(value):
        raise LedgerError(f"{what}: {min(missing)!r} is missing")


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise LedgerError(f"{name}: {value!r} is not a number from {low:g} to {high:g}")
    return float(value)


def _entry(value: Any, index: int) -> Entry:
    names = [f.name for f in dataclasses.fields(Entry)]
    try:
        _keys(value, set(names), "entry")
        for name, allowed in (("mode", MODES), ("kind", KINDS)):
            if value[name] not in allowed:
                raise LedgerError(f"{name}: {value[name]!r} is not one of {' '.join(allowed)}")
        for name in ("path", "dtype", "torch", "hardware", "worst_case", "date"):
            if not isinstance(value[name], str) or not value[name]:
                raise LedgerError(f"{name}: {value[name]!r} is not a text")
        for name in ("threads", "cases"):
            if type(value[name]) is not int or value[name] < 1:
                raise LedgerError(f"{name}: {value[name]!r} is not a whole number >= 1")
        for name in ("worst_utilisation", "median_utilisation"):
            # A utilisation is a fraction of the budget: more than 1 is WRONG, never recorded.
            _number(name, value[name], low=0.0, high=1.0)
        for name in ("relative_l2", "max_abs"):
            _number(name, value[name], low=0.0)
        _number("signed_mean", value["signed_mean"])
        if not isinstance(value["environment"], dict):
            raise LedgerError("environment: is not an object")
        if not isinstance(value["accepted"], list):
            raise LedgerError("accepted: is not a list")
    except LedgerError as error:
        raise LedgerError(f"entry {index}: {error}") from None
    return Entry(**{**value, "accepted": tuple(value["accepted"])})
