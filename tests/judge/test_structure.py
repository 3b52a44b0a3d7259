"""The house: imports go one way, tests stand alone, and no module outgrows one noun."""

from __future__ import annotations

import re

import pytest

import harness
from tests.support import ROOT

ROOMS = re.findall(r"^``(\w+)``", harness.__doc__ or "", flags=re.M)
MODULES = sorted((ROOT / "harness").glob("*/*.py"))
TESTS = sorted((ROOT / "tests").glob("**/test_*.py"))
MOST_LINES = 330


def test_the_map_names_every_package() -> None:
    """What stands in the map is there, and the other way round."""
    assert sorted(ROOMS) == sorted({module.parent.name for module in MODULES})


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_imports_only_from_those_above_it(room: str) -> None:
    """In the order of the map, so that there is no circle."""
    above = {*ROOMS[: ROOMS.index(room) + 1]}
    for module in (m for m in MODULES if m.parent.name == room):
        text = module.read_text(encoding="utf-8")
        imported = set(re.findall(r"(?:from|import) harness\.(\w+)", text))
        assert imported <= above, f"{module.name} imports from {imported - above}"


def test_no_test_module_imports_another() -> None:
    """What two of them need lies in tests/support."""
    for module in TESTS:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"(?:from|import) tests\.\S*\btest_", text), module


def test_no_test_reaches_for_a_private_name() -> None:
    """A private name of the harness may change without a test."""
    for module in TESTS:
        text = module.read_text(encoding="utf-8")
        assert not re.search(r"from harness[\w.]* import [^\n]*\b_[a-z]", text), module
        assert not re.search(r"\"harness\.[\w.]*\._[a-z]", text), module


def test_json_is_written_and_read_in_one_place() -> None:
    """So that NaN and infinities have one spelling, and are never written bare."""
    apart = {
        "support/strict_json.py",
        "script/text.py",  # a string of Python
    }
    for module in MODULES:
        if "/".join(module.parts[-2:]) not in apart:
            assert "json.dump" not in (text := module.read_text(encoding="utf-8")), module
            assert "json.load" not in text.replace("= json.loads(sys.argv[1])", ""), module


def test_no_module_outgrows_one_noun() -> None:
    """About 300 lines; a longer one holds two."""
    lengths = {
        str(module.relative_to(ROOT)): len(module.read_text(encoding="utf-8").splitlines())
        for module in (*MODULES, *TESTS)
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}
