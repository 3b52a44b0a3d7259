"""Kept cases: failures and edge cases worth running first, each a JSON file of a few lines.

It has the id of the case, its source, and the path and known failure where there are such."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.case import CaseError, DecodeCase
from harness.support.files import write_atomically
from harness.support.strict_json import any_text, fields, read_file, text, to_line, to_text

FOLDER = Path("fixtures") / "cases"
_OPTIONAL = ("path", "known_failure")


@dataclass(frozen=True)
class KeptCase:
    """A case that is worth running first, and why.

    ``source`` says where the case comes from (an issue, a run), ``path`` names the only path on
    which it is run ("" for all paths), and ``known_failure`` the section of FINDINGS.md about the
    defect of torch that it shows ("" for none)."""

    name: str
    case: DecodeCase
    source: str
    path: str = ""
    known_failure: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.name):
            raise CaseError(f"name: {self.name!r} is not lower-case letters, digits and dashes")
        if not self.source.strip():
            raise CaseError("source: is empty; say where the case comes from")


def load(file: Path) -> KeptCase:
    """Read one kept case.

    Raises:
        CaseError: for a file that is no kept case; the message names the file and the field.
    """
    wanted = {"case": _case, "source": text}
    optional = dict.fromkeys(_OPTIONAL, any_text)
    return read_file(
        file, lambda value: KeptCase(file.stem, **fields(value, wanted, optional)), CaseError
    )


def _case(value: Any) -> DecodeCase:
    """A reader of a case: its id, or, in older files, an object with its fields."""
    if isinstance(value, dict):
        return DecodeCase.from_json(to_line(value))
    return DecodeCase.from_text(text(value))


def load_all(folder: Path = FOLDER) -> Iterator[KeptCase]:
    """Every kept case of a folder, sorted by name; raises as ``load`` does."""
    for file in sorted(folder.glob("*.json")):
        yield load(file)


def keep(kept: KeptCase, folder: Path = FOLDER) -> Path:
    """Write a kept case to a file of its name in ``folder``, and return the file.

    Raises:
        UnwritableFile: where the folder is missing or not writable.
    """
    values = {"case": str(kept.case), "source": kept.source}
    values |= {name: getattr(kept, name) for name in _OPTIONAL if getattr(kept, name)}
    file = folder / f"{kept.name}.json"
    write_atomically(file, to_text(values, 1))
    return file
