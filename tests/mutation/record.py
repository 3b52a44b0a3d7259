"""What came of each mutant: the record as JSON, the rate of each module, the table of the page."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = 1
Z = 1.959964  # of a normal distribution, 95 % within


def interval(killed: int, count: int) -> tuple[float, float]:
    """Wilson's interval, 95 %, of a rate of which ``killed`` in ``count`` were seen.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    if not count:
        return 0.0, 1.0
    rate = killed / count
    centre = rate + Z**2 / (2 * count)
    half = Z * math.sqrt(rate * (1 - rate) / count + (Z / (2 * count)) ** 2)
    whole = 1 + Z**2 / count
    return max(0.0, (centre - half) / whole), min(1.0, (centre + half) / whole)


def as_json(head: Mapping[str, Any], mutants: Iterable[Mapping[str, Any]]) -> str:
    """One object, a mutant a line, so that a change shows as the lines it touches."""
    lines = ",\n".join(f"    {json.dumps(mutant)}" for mutant in mutants)
    text = json.dumps(dict(head), indent=2).removesuffix("\n}")
    return f'{text},\n  "mutants": [\n{lines}\n  ]\n}}\n'


def read(path: Path) -> dict[str, Any]:
    """The record.

    Raises:
        ValueError: where the file is none, or one of another schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path}: not a record of mutants, schema {SCHEMA}")
    return found


def name(mutant: Mapping[str, Any]) -> str:
    """How the page calls a mutant: module, line, what became of what."""
    short = mutant["module"].removeprefix("harness/")
    operator = mutant["operator"].removeprefix("core/")
    return f"{short}:{mutant['line']} {operator}"


def markdown(record: Mapping[str, Any]) -> str:
    """A row for each module and one for all: mutants, killed, of them by time, rate, interval."""
    rows = ["| module | mutants | killed | by time | survived | rate | 95 % interval |"]
    rows.append("|---|---|---|---|---|---|---|")
    tried = [m for m in record["mutants"] if m["outcome"]]
    modules = sorted({m["module"] for m in tried})
    for module in [*modules, None]:
        outcomes = Counter(m["outcome"] for m in tried if module in (None, m["module"]))
        count, timeouts = outcomes.total(), outcomes["timeout"]
        killed = outcomes["killed"] + timeouts
        low, high = interval(killed, count)
        label = f"`{module.removeprefix('harness/')}`" if module else "all"
        rows.append(
            f"| {label} | {count} | {killed} | {timeouts} | {count - killed}"
            f" | {killed / max(count, 1):.0%} | {low:.0%} to {high:.0%} |"
        )
    return "\n".join(rows)
