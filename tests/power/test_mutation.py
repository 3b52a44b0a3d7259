"""Mutants of what decides a verdict: the record says what the page says, and none is unjudged.

They are tried by ``python -m tests.mutation``, which takes an hour; here is what it recorded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.mutation import SUBJECTS, TESTS
from tests.mutation.__main__ import DEFAULT, main
from tests.mutation.record import as_json, interval, markdown, name, read
from tests.support import ROOT

PAGE = (ROOT / "docs" / "power.md").read_text(encoding="utf-8")


def test_the_page_holds_the_table_of_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``--table`` prints it."""
    assert main(["--table"]) == 0
    assert capsys.readouterr().out.strip() in PAGE


def test_each_mutant_that_survived_is_judged_on_the_page() -> None:
    """By its module, line and operator."""
    mutants = read(DEFAULT)["mutants"]
    alive = [name(m) for m in mutants if m["outcome"] in ("survived", "untested")]
    assert [text for text in alive if f"`{text}`" not in PAGE] == []


def test_subjects_and_tests_are_there() -> None:
    """What moves is moved there as well."""
    missing = [file for file in (*SUBJECTS, *TESTS) if not (ROOT / file).is_file()]
    assert missing == []


@pytest.mark.parametrize(("killed", "count"), [(5, 10), (9, 10), (1, 40), (270, 300)])
def test_the_interval_is_wilsons(killed: int, count: int) -> None:
    """Where an end were the true rate, the rate that was seen is 1.96 standard deviations away."""
    for end in interval(killed, count):
        away = abs(killed / count - end) / math.sqrt(end * (1 - end) / count)
        assert f"{away:.4f}" == "1.9600"


def test_the_interval_of_all_and_of_none_is_open_at_one_end() -> None:
    """Three in a hundred may survive where none did in a hundred; nothing is known without any."""
    ends = [f"{end:.3f}" for end in (*interval(100, 100), *interval(0, 100))]
    assert ends == ["0.963", "1.000", "0.000", "0.037"]
    assert interval(0, 0) == (0, 1)


def test_the_table_counts_a_mutant_out_of_time_as_killed(tmp_path: Path) -> None:
    """Apart, and one that was not tried not at all."""
    mutants = [
        {"module": f"harness/{module}.py", "line": 1, "operator": "core/AddNot", "outcome": outcome}
        for module, outcome in (
            ("a", "killed"),
            ("a", "timeout"),
            ("a", "survived"),
            ("a", None),
            ("b", "untested"),
        )
    ]
    file = tmp_path / "mutation.json"
    file.write_text(as_json({"schema": 1}, mutants))
    rows = markdown(read(file)).splitlines()[2:]
    assert [row.split(" | ")[:5] for row in rows] == [
        ["| `a.py`", "3", "2", "1", "1"],
        ["| `b.py`", "1", "0", "0", "1"],
        ["| all", "4", "2", "1", "2"],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sample", "0"], "--sample 0: allowed is 1 or more"),
        (["--table", "--json", "{folder}/other.json"], "not a record of mutants, schema 1"),
        (["--table", "--json", "{folder}/missing.json"], "missing.json"),
        (["--json", "{folder}/no/such.json"], "there is no directory"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, before anything heavy is imported."""
    (tmp_path / "other.json").write_text(json.dumps({"schema": 0}))
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
