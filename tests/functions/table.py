"""What was measured, as JSON and as text."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from harness.support.files import write_atomically
from tests.functions.measure import Row

SCHEMA = 1
FAULTY = ("caught", "misnamed", "missed", "refused")
SOUND = ("passed", "accused", "refused")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON, one a line."""
    lines = ",\n".join(f"  {json.dumps(dataclasses.asdict(row))}" for row in rows)
    write_atomically(path, f'{{"schema": {SCHEMA}, "rows": [\n{lines}\n]}}\n')


def read(path: Path) -> list[Row]:
    """Read what ``write`` wrote.

    Raises:
        ValueError: for another schema.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema: {document.get('schema')} is not {SCHEMA}")
    return [Row(**row) for row in document["rows"]]


def line(row: Row) -> str:
    """One row as text."""
    again = "" if not row.repro else f", again {row.repro}"
    return f"{row.result:9} {row.name:52} {row.verdict}{again} {row.seconds:.0f} s"


def _counts(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for row in rows:
        counts = found.setdefault(row.category, Counter())
        counts[row.result] += 1
        counts["functions"] += 1
        counts["shown again"] += row.shows_again
    return found


def totals(rows: list[Row]) -> str:
    """Counts by category as text."""
    lines = []
    for category, counts in _counts(rows).items():
        sound = counts["passed"] + counts["accused"] > 0
        parts = [f"{counts[result]} {result}" for result in (SOUND if sound else FAULTY)]
        if not sound:
            parts.append(f"{counts['shown again']} shown again by the printed command")
        lines.append(f"{category:13} {counts['functions']:3} functions: {', '.join(parts)}")
    seconds = sorted(row.seconds for row in rows)
    if seconds:
        lines.append(f"a check took {seconds[len(seconds) // 2]:.0f} s, at most {seconds[-1]:.0f}")
    return "\n".join(lines)


def markdown(before: list[Row], after: list[Row]) -> str:
    """The table of docs/faults.md: by category, before and after, of those measured after."""
    measured = {row.name for row in after}
    old, new = _counts(row for row in before if row.name in measured), _counts(after)
    lines = [
        "| functions | | caught before | caught | shown again | accused |",
        "|---|---|---|---|---|---|",
    ]
    for category, counts in new.items():
        was = old.get(category, Counter[str]())
        if counts["passed"] + counts["accused"]:
            wrongly = was["accused"] + was["refused"]
            cells = ["", "", "", f"{counts['accused'] + counts['refused']} (before {wrongly})"]
        else:
            cells = [str(was["caught"]), str(counts["caught"]), str(counts["shown again"]), ""]
        lines.append(f"| {category} | {counts['functions']} | {' | '.join(cells)} |")
    return "\n".join(lines)
