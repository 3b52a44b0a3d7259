"""What a day runs of a claim that takes long over all of its values: a part, which rotates.

The parts that a day leaves out have the marker ``nightly``, which ``addopts`` deselects;
``pytest -m ""`` runs all of them. conftest.py prints the date and what was left out. By day a test
with the marker ``rotates(count)`` is run with one in ``count`` of its parameters, and one that
compiles with one in ``COMPILED``.
"""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

VARIABLE = "HARNESS_DATE"
COMPILED = 4


def date() -> datetime.date:
    """The day whose part is run: that of the variable, else in CI that of the commit, so that a
    later run of it is the same, else today.

    Raises:
        ValueError: where the variable is no date such as 2026-11-30.
    """
    text = os.environ.get(VARIABLE)
    if text is None and os.environ.get("CI"):
        command = ["git", "log", "-1", "--format=%cs"]
        here = Path(__file__).parent
        ran = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
        text = ran.stdout.strip()
    return datetime.date.fromisoformat(text) if text else datetime.date.today()


def parts(values: Iterable[Any], count: int) -> list[Any]:
    """Parameters for ``values`` split into ``count`` lists: the day's one, and nightly ones."""
    values = list(values)
    return rotated([values[start::count] for start in range(count)], count)


def rotated(values: Iterable[Any], count: int) -> list[Any]:
    """A parameter for each value; a day runs one in ``count`` of them."""
    return rotated_groups([[value] for value in values], count)


def rotated_groups(groups: Iterable[Iterable[Any]], count: int) -> list[Any]:
    """A parameter for each value of each group; a day runs one in ``count`` groups, whole."""
    today = date().toordinal()
    return [
        nightly(value) if (today + number) % count else value
        for number, group in enumerate(groups)
        for value in group
    ]


def rotate(items: Iterable[pytest.Item]) -> None:
    """Mark what the day leaves out of the tests that rotate."""
    today = date().toordinal()
    claims: dict[str, list[pytest.Item]] = {}
    for item in items:
        claims.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for claim in claims.values():
        left = [item for item in claim if not item.get_closest_marker("nightly")]
        for number, item in enumerate(left):
            if (today + number) % min(_one_in(item), len(left)):
                item.add_marker(pytest.mark.nightly)


def _one_in(item: pytest.Item) -> int:
    if marker := item.get_closest_marker("rotates"):
        return int(marker.args[0])
    return COMPILED if item.get_closest_marker("compiles") else 1


def nightly(value: Any) -> Any:
    """A parameter that a day leaves out, made of a value or of a parameter."""
    if isinstance(value, ParameterSet):
        return value._replace(marks=[*value.marks, pytest.mark.nightly])
    return pytest.param(value, marks=pytest.mark.nightly)
