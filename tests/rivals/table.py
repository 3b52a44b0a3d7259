"""The measurement as a JSON file, and the part of it that docs/faults.md shows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.faults.mutants import Scope
from harness.support.environment import environment
from harness.support.files import write_atomically
from harness.support.strict_json import (
    Reader,
    fields,
    list_of,
    mapping,
    one_of,
    read_file,
    text,
    whole,
)
from tests.rivals.measure import Cell
from tests.rivals.rule import SEEDS, Rule

SCHEMA = 1

# The faults of docs/faults.md's table, each under the words it has there.
TELLING: dict[str, str] = {
    "all-zeros": "an output of zeros",
    "no-query-offset": "no query offset (gpt-fast#233)",
    "offset-one-low": "newest key dropped",
    "offset-one-high": "one tail slot attended",
    "first-position-for-all": "first sequence's position for all",
    "value-one-step-stale": "newest value one step stale",
    "newest-block-dropped": "newest block dropped",
    "leftover-block": "a block of leftovers attended",
    "wrong-page": "newest block from another page",
    "group-map-modulo": "head h on KV head h % Hkv",
    "window-one-wide": "window one slot too wide",
    "splits-merged-in-base-two": "splits merged in base 2",
    "scale-one-percent-off": "scale 1 % off",
    "scores-rounded-to-bfloat16": "scores rounded to bf16",
}
# Sound implementations there, where a catch is a false alarm.
SOUND: dict[str, str] = {
    "naive": "sound, in float32",
    "rounded-weights": "sound, weights rounded to the dtype",
}


def as_json(
    rules: Mapping[str, Rule], cells: Iterable[Cell], zeros: Iterable[Cell], sound: Iterable[Cell]
) -> str:
    """One object, a cell a line: few bytes, and a change shows as the lines it touches.

    ``sound`` is of sound implementations, so that ``caught`` counts false alarms.
    """
    head: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": environment(),
        "seeds": list(SEEDS),
        "rules": list(rules),
        "sources": {name: rule.source for name, rule in rules.items()},
        "recipes": {name: [recipe.case for recipe in rule.recipes] for name, rule in rules.items()},
    }
    parts = [f'"{key}":{_compact(value)}' for key, value in head.items()]
    for key, listed in (("sound", sound), ("all_zeros", zeros), ("cells", cells)):
        lines = ",\n".join(_compact(dataclasses.asdict(cell)) for cell in listed)
        parts.append(f'"{key}":[\n{lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def write(path: Path, text: str) -> None:
    """Replace the file; on failure the old one stays."""
    write_atomically(path, text)


def read(path: Path) -> dict[str, Any]:
    """What ``as_json`` wrote.

    Raises:
        ValueError: naming the file and the field, for anything else.
    """
    cells = list_of(mapping)
    readers: dict[str, Reader[Any]] = {
        "schema": one_of(SCHEMA),
        "environment": mapping,
        "seeds": list_of(whole()),
    }
    readers |= {"rules": list_of(text), "sources": mapping, "recipes": mapping}
    readers |= {"sound": cells, "all_zeros": cells, "cells": cells}
    return read_file(path, lambda value: fields(value, readers), ValueError)


def markdown(data: Mapping[str, Any]) -> str:
    """A row per telling fault, a column per rule.

    A cell is caught/total with the fault in all rows, then with the fault in one head of one
    sequence; a dash where the rule's inputs cannot show it. The last rows are no faults: what is
    caught there is a false alarm.
    """
    listed = data["sound"] + data["all_zeros"] + data["cells"]
    cells = {(c["rule"], c["fault"], c["scope"]): c for c in listed}
    head = ["output", *data["rules"]]
    lines = [head, ["---"] * len(head)]
    for fault, words in (TELLING | SOUND).items():
        row = [words]
        for rule in data["rules"]:
            found = (cells.get((rule, fault, scope)) for scope in (Scope.ALL, Scope.HEAD))
            row.append(", ".join(_ratio(cell) for cell in found if cell is not None))
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(cell: Mapping[str, Any]) -> str:
    return f"{cell['caught']}/{cell['total']}" if cell["applies"] else "–"  # noqa: RUF001
