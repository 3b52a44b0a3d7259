"""A day runs a part of what rotates, each part on some day, and no claim by night alone."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, day, hidden
from tests.support.plugged import pytest_in
from tests.support.processes import Preloaded

TESTS = """
import pytest

@pytest.mark.rotates(3)
@pytest.mark.parametrize("n", range(7))
def test_rotates(n): pass

@pytest.mark.compiles
@pytest.mark.parametrize("n", range(8))
def test_compiles(n): pass

@pytest.mark.rotates(9)
def test_alone(): pass

@pytest.mark.rotates(2)
@pytest.mark.parametrize("n", [0, 1, pytest.param(2, marks=pytest.mark.nightly)])
def test_partly_nightly(n): pass

def test_plain(): pass
"""
CONFTEST = """
import pytest
from tests.support import day

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    day.rotate(items)

def pytest_configure(config):
    for name in ("rotates(n)", "compiles", "nightly"):
        config.addinivalue_line("markers", name)
"""


def run_on(date: datetime.date, folder: Path, preloaded: Preloaded) -> set[str]:
    """The tests that are run on a day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(day.VARIABLE, date.isoformat())
        patch.setenv("PYTHONPATH", str(ROOT))
        done = pytest_in(folder, preloaded, "--collect-only", "-q", "-m", "not nightly")
    return {line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line}


def test_every_part_has_its_day(tmp_path: Path, preloaded: Preloaded) -> None:
    """Within as many days as there are parts, each test of a claim that rotates is run."""
    (tmp_path / "test_claims.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    first = datetime.date(2026, 11, 30)
    days = [run_on(first + datetime.timedelta(n), tmp_path, preloaded) for n in range(4)]
    for ran in days:
        claims = [name.partition("[")[0] for name in ran]
        assert {*claims} == {
            *("test_rotates", "test_compiles", "test_alone", "test_partly_nightly", "test_plain")
        }
        assert claims.count("test_rotates") in (2, 3)
        assert claims.count("test_compiles") == 2
        assert claims.count("test_partly_nightly") == 1
    assert len(days[0] | days[1] | days[2] | days[3]) == 7 + 8 + 1 + 2 + 1
    assert run_on(first, tmp_path, preloaded) == days[0]


def test_what_is_hidden_is_seen_within_shown_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this process and by those that it starts; what was there before comes back."""
    monkeypatch.setattr(hidden, "FOLDER", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "before")
    before = list(sys.path)
    with hidden.shown():
        assert sys.path[-1] == str(tmp_path)
        assert os.environ["PYTHONPATH"] == os.pathsep.join(["before", str(tmp_path)])
    assert sys.path == before and os.environ["PYTHONPATH"] == "before"
    monkeypatch.setattr(hidden, "FOLDER", tmp_path / "missing")
    with hidden.shown():
        assert sys.path == before
