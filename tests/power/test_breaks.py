"""The breaks of ``python -m tests.breaks``: the table is true, the command says who is caught."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from tests.breaks import __main__ as command
from tests.breaks.plant import Unplantable, broken, judged
from tests.breaks.table import BREAKS, Break
from tests.support import ROOT

CHEAP = "nan-as-zero"


@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.name)
def test_a_break_can_be_planted_and_its_tests_are_there(one: Break) -> None:
    """What it replaces stands once in its file, which stays Python; its tests are of the day."""
    assert broken(one) != (ROOT / one.file).read_text(encoding="utf-8")
    compile(broken(one), one.file, "exec")
    assert one.tests
    for test in one.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"\ndef {name.partition('[')[0] or 'test_'}", text), test


def test_breaks_are_in_every_part_of_the_house() -> None:
    """Each has a name of its own; no room has most of them."""
    rooms = [Path(one.file).parent.name for one in BREAKS]
    assert len({one.name for one in BREAKS}) == len(BREAKS) >= 12
    assert len(set(rooms)) >= 12
    assert max(map(rooms.count, rooms)) <= len(rooms) / 4


def test_a_break_is_caught_in_a_copy_of_the_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    """A cheap one, by the test that is named; the checkout stays as it is."""
    [one] = [one for one in BREAKS if one.name == CHEAP]
    before = (ROOT / one.file).read_bytes()
    assert command.main([CHEAP]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"^caught +{CHEAP} +[\d.]+ s  by {re.escape(one.tests[0])}$", said, re.M)
    assert said.splitlines()[-1].startswith("1 of 1 caught in ")
    assert (ROOT / one.file).read_bytes() == before


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one function, and a test that sees half of what can be wrong with it."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "mine.py").write_text("def larger(a, b):\n    return max(a, b)\n")
    (tmp_path / "test_mine.py").write_text(
        "from mine import larger\n\ndef test_larger():\n    assert larger(1, 2) == 2\n"
    )
    return tmp_path


FIRST = Break("first", "", "mine.py", "max(a, b)", "a", ("test_mine.py::test_larger",))
SECOND = dataclasses.replace(FIRST, name="second", new="b")
NO_PYTHON = dataclasses.replace(FIRST, name="no-python", new="max(a, b")


def test_what_no_test_sees_is_not_caught(project: Path) -> None:
    """Nor is what keeps the tests from being run at all; each break is planted alone."""
    told = [(one.name, test) for one, test, _ in judged((SECOND, FIRST, NO_PYTHON), project)]
    wanted = [("second", ""), ("first", "test_mine.py::test_larger"), ("no-python", "")]
    assert told == wanted


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mine.py", "", "first: mine.py has 'max(a, b)' 0 times, not once"),
        ("mine.py", "max(a, b)\nmax(a, b)\n", "first: mine.py has 'max(a, b)' 2 times, not once"),
        ("test_mine.py", "def test_larger():\n    assert False\n", "not green without a break"),
        ("test_mine.py", "", "not green without a break"),
    ],
)
def test_a_table_that_is_not_true_is_an_error(
    file: str, text: str, message: str, project: Path
) -> None:
    """A text that is gone or is there twice, and tests that are red anyway or gone."""
    (project / file).write_text(text)
    with pytest.raises(Unplantable, match=re.escape(message)):
        list(judged([FIRST], project))


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, 1, "NOT CAUGHT "),
        (Unplantable("gone"), 2, "tests.breaks: error: gone"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_exit_codes_tell_a_hole_a_stale_table_and_an_interrupt_apart(
    raised: BaseException | None,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """1, 2 and 130; a name that is none is 2 as well."""

    def told(breaks: object) -> list[tuple[Break, str, float]]:
        if raised is not None:
            raise raised
        return [(FIRST, "", 0.1), (SECOND, "test_mine.py::test_larger", 0.1)]

    monkeypatch.setattr(command, "judged", told)
    assert command.main([]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    with pytest.raises(SystemExit, match="2"):
        command.main(["no-such-break"])
