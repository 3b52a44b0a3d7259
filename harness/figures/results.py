"""Results results that the report shows: the tolerance ledger, the kill matrix, other projects'
rules. Read strictly; what is missing is said, never drawn as if it were nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ledger.entries import Ledger, LedgerError, load

FIXTURES = Path("fixtures")
KINDS = ("output", "auxiliary", "contract")
SCHEMA = 1


class ResultsError(ValueError):
    """A file that is not what it should be; the message names the file and the field."""


@dataclass(frozen=True)
class Kill:
    """Whether a planted fault was found, and by which verdict."""

    fault: str
    number: int
    kind: str
    scope: str
    dtype: str
    killed_by: str | None


@dataclass(frozen=True)
class Catch:
    """In how many of ``total`` runs another project's rule refuses a planted fault."""

    rule: str
    fault: str
    scope: str
    caught: int
    total: int


@dataclass(frozen=True)
class Results:
    """What there is; None where nothing was recorded."""

    ledger: Ledger | None = None
    kills: tuple[Kill, ...] | None = None
    catches: tuple[Catch, ...] | None = None


def read_results(files: Iterable[Path], folder: Path = FIXTURES) -> Results:
    """The recorded results of ``folder``, each replaced by one of ``files`` of the same kind.

    A file says by its fields what it is: ``entries`` a ledger, ``rules`` with ``cells`` the rules,
    ``cells`` alone a kill matrix.

    Raises:
        ResultsError: for a file that cannot be read, is malformed, or comes twice.
    """
    found: dict[str, Any] = {}
    for path in files:
        name, value = _read(path)
        if name in found:
            raise ResultsError(f"{path}: is a second {name.replace('_', ' ')}")
        found[name] = value
    defaults = {
        "ledger": folder / "tolerances" / "cpu.json",
        "kills": folder / "kill-matrix.json",
        "catches": folder / "rivals.json",
    }
    for name, path in defaults.items():
        if name not in found and path.exists():
            actual, found[name] = _read(path)
            if actual != name:
                raise ResultsError(f"{path}: holds {actual}, should hold {name}")
    return Results(**found)


def _read(path: Path) -> tuple[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ResultsError(f"{path}: not JSON: {error}") from None
    try:
        if isinstance(document, dict) and "entries" in document:
            return "ledger", load(path)
        return _document(document)
    except LedgerError as error:
        raise ResultsError(str(error)) from None
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None


def _document(document: Any) -> tuple[str, Any]:
    if not isinstance(document, dict):
        raise ResultsError("is not a JSON object")
    if document.get("schema") != SCHEMA:
        raise ResultsError(f"schema: {document.get('schema')!r}, should be {SCHEMA}")
    if "rules" in document:
        return "catches", _all(document, "cells", _catch)
    if "cells" in document:
        return "kills", _all(document, "cells", _kill)
    raise ResultsError("has neither entries nor cells: no ledger, kill matrix or rules")


def _all(document: dict[str, Any], name: str, read: Any) -> tuple[Any, ...]:
    items = document.get(name)
    if not isinstance(items, list):
        raise ResultsError(f"{name}: is not a list")
    found = []
    for i, item in enumerate(items):
        try:
            found.append(read(item))
        except ResultsError as error:
            raise ResultsError(f"{name}[{i}].{error}") from None
    return tuple(found)


def _kill(item: Any) -> Kill:
    killed_by = _get(item, "killed_by")
    if killed_by is not None and not isinstance(killed_by, str):
        raise ResultsError(f"killed_by: {killed_by!r} is neither a verdict nor null")
    kind = _text(item, "kind")
    if kind not in KINDS:
        raise ResultsError(f"kind: {kind!r} is not one of {' '.join(KINDS)}")
    names = ("fault", "scope", "dtype")
    return Kill(
        **{name: _text(item, name) for name in names},
        number=_count(item, "number"),
        kind=kind,
        killed_by=killed_by,
    )


def _catch(item: Any) -> Catch:
    caught, total = _count(item, "caught"), _count(item, "total")
    if not 0 <= caught <= total:
        raise ResultsError(f"caught: {caught} of {total}")
    return Catch(
        **{name: _text(item, name) for name in ("rule", "fault", "scope")},
        caught=caught,
        total=total,
    )


def _get(item: Any, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        raise ResultsError(f"{name}: missing")
    return item[name]


def _text(item: Any, name: str) -> str:
    value = _get(item, name)
    if not isinstance(value, str) or not value:
        raise ResultsError(f"{name}: {value!r} is not a text")
    return value


def _count(item: Any, name: str) -> int:
    value = _get(item, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ResultsError(f"{name}: {value!r} is not a whole number")
    return value
