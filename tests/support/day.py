"""What a day runs of a claim that takes long over all of its values: a part, which rotates.

The parts that a day leaves out have the marker ``nightly``, which ``addopts`` deselects;
``pytest -m ""`` runs all of them. conftest.py prints the date and what was left out.
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


def nightly(value: Any) -> Any:
    """A parameter that a day leaves out, made of a value or of a parameter."""
    if isinstance(value, ParameterSet):
        return value._replace(marks=[*value.marks, pytest.mark.nightly])
    return pytest.param(value, marks=pytest.mark.nightly)
