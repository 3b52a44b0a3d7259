"""Recorded results that the figures show: the ledger, the kill matrix, and other projects' rules.

Files are read strictly. Results that were not recorded are None, so that the figures can say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ledger.entries import Ledger, read_ledger
from harness.support.strict_json import (
    JsonError,
    Reader,
    fields,
    list_of,
    one_of,
    optional_text,
    read_file,
    text,
    whole,
)

FIXTURES = Path("fixtures")
KINDS = ("output", "auxiliary", "contract")
SCHEMA = 1


class ResultsError(ValueError):
    """A file of recorded results that is malformed; the message names the file and the field."""


@dataclass(frozen=True)
class Kill:
    """The check or verdict that caught one mutant in one dtype, or None."""

    fault: str
    number: int
    kind: str
    scope: str
    dtype: str
    killed_by: str | None


@dataclass(frozen=True)
class Catch:
    """The number of runs, out of ``total``, in which another project's rule catches a fault."""

    rule: str
    fault: str
    scope: str
    caught: int
    total: int


@dataclass(frozen=True)
class Shown:
    """Whether a script shows its defect with a version of torch; None where that is not known."""

    script: str
    torch: str
    shows: bool | None


@dataclass(frozen=True)
class Results:
    """All recorded results; None for those that were not recorded."""

    ledger: Ledger | None = None
    kills: tuple[Kill, ...] | None = None
    catches: tuple[Catch, ...] | None = None
    findings: tuple[Shown, ...] | None = None


def read_results(files: Iterable[Path], folder: Path = FIXTURES) -> Results:
    """Read the recorded results of ``folder``, or in their place those of ``files``.

    A file's fields say what it holds: ``entries`` a ledger, ``rules`` and ``cells`` other projects'
    rules, ``cells`` without ``rules`` a kill matrix, and ``versions`` in which findings show.

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
        "findings": folder / "findings.json",
    }
    for name, path in defaults.items():
        if name not in found and path.exists():
            actual, found[name] = _read(path)
            if actual != name:
                raise ResultsError(f"{path}: holds {actual}, should hold {name}")
    return Results(**found)


def _read(path: Path) -> tuple[str, Any]:
    return read_file(path, _document, ResultsError)


def _document(document: Any) -> tuple[str, Any]:
    if not isinstance(document, dict):
        raise JsonError("is not a JSON object")
    if "entries" in document:
        return "ledger", read_ledger(document)
    if "versions" in document:
        shown: Reader[list[Any]] = list_of(_shown)
        return "findings", tuple(fields(document, {"versions": shown})["versions"])
    if "cells" not in document:
        raise JsonError("has neither entries nor cells nor versions of torch")
    # Files with a kill matrix or other projects' rules have further fields, which are not shown.
    cells: Reader[list[Any]] = list_of(_catch if "rules" in document else _kill)
    found = fields(document, {"schema": one_of(SCHEMA), "cells": cells}, others=True)
    return ("catches" if "rules" in document else "kills"), tuple(found["cells"])


def _shown(value: Any) -> Shown:
    readers: dict[str, Reader[Any]] = dict(script=text, torch=text, shows=_optional_flag)
    return Shown(**fields(value, readers, others=True))


def _optional_flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise JsonError(f"{value!r} is not true, false or null")


def _kill(value: Any) -> Kill:
    readers: dict[str, Reader[Any]] = dict(
        fault=text,
        number=whole(),
        kind=one_of(*KINDS),
        scope=text,
        dtype=text,
        killed_by=optional_text,
    )
    return Kill(**fields(value, readers, others=True))


def _catch(value: Any) -> Catch:
    readers: dict[str, Reader[Any]] = dict(
        rule=text, fault=text, scope=text, caught=whole(), total=whole()
    )
    catch = Catch(**fields(value, readers, others=True))
    if catch.caught > catch.total:
        raise JsonError(f"{catch.caught} of {catch.total}", "caught")
    return catch
