"""Power: every planted fault is caught, and no sound path is accused."""

import functools
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import settings

from harness import cli
from harness.case import DTYPES, DecodeCase
from harness.diagnosis.diagnosis import diagnose
from harness.diagnosis.leave_one_out import Naming, measured, trials
from harness.faults import FAULTS, FaultKind
from harness.faults.kill_matrix import Cell, kill_matrix, measure_power
from harness.faults.mutants import MODEL, Scope, mutant
from harness.paths import PATHS
from harness.strategies.paths import fitted, sampled_cases
from harness.verdict import Problem, Verdict, contract, judge
from tests.support import ROOT
from tests.support.day import date, parts

pytestmark = pytest.mark.usefixtures("untraced")

GOAL = 25  # examples, at the median
EXAMPLES, ALL_EXAMPLES = 600, 2000


@functools.cache
def cases(count: int, run: int) -> list[DecodeCase]:
    """Drawn once for all tests here."""
    return sampled_cases(count, run)


def quiet(text: str) -> None:
    """No progress."""


def test_the_faults_cover_every_fault_model() -> None:
    """1 to 45, each with its report, its remedy, and a name of its own."""
    assert {fault.number for fault in FAULTS.values()} == set(range(1, 46))
    assert all(f.summary and f.remedy and f.source for f in FAULTS.values())


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mutant_is_killed(dtype: str) -> None:
    """Planted in all rows, one sequence, one head or block edges."""
    matrix = measure_power(list(FAULTS.values()), [dtype], ALL_EXAMPLES, 0, quiet)
    assert matrix.false_alarms == []
    killed(matrix.cells)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_fault_is_killed_in_one_dtype(dtype: str) -> None:
    """Planted in all rows and in one head; a third of the faults each dtype, another one the next
    day."""
    start = (DTYPES.index(dtype) + date().toordinal()) % len(DTYPES)
    chosen = list(FAULTS.values())[start :: len(DTYPES)]
    killed(kill_matrix(chosen, [dtype], cases(EXAMPLES, 0), quiet, (Scope.ALL, Scope.HEAD)))


def killed(cells: list[Cell]) -> None:
    """Check that all are, half of them soon."""
    assert [f"{c.fault}@{c.scope}" for c in cells if c.killed_by is None] == []
    assert statistics.median(c.examples for c in cells if c.kind is FaultKind.OUTPUT) <= GOAL


def test_the_sound_model_is_never_accused() -> None:
    """The matrix means nothing if its path without a fault fails too."""
    for dtype in DTYPES:
        for problem in fitted(cases(settings().max_examples, 7), MODEL, dtype=dtype):
            judgement = judge(MODEL, problem)
            assert judgement.verdict is Verdict.OK, (judgement.findings, str(problem.case))


@pytest.mark.parametrize("name", [n for n, path in PATHS.items() if not path.known_wrong])
def test_a_sound_path_keeps_the_contract(name: str) -> None:
    """One graph for all positions, no state between calls."""
    path = PATHS[name]
    assert contract.broken(path) == {}


def test_each_contract_check_catches_the_fault_that_it_is_for() -> None:
    """And says what it saw."""
    caught = {
        fault.name: next(iter(contract.broken(mutant(fault))))
        for fault in FAULTS.values()
        if fault.kind is FaultKind.CONTRACT
    }
    assert caught == {
        "int-position": "one graph for all positions",
        "captured-tensor-baked-in": "positions in turn",
        "plan-cached": "positions in turn",
        "specialised-on-first-length": "cache lengths in turn",
        "block-mask-mutated": "the same call twice",
    }


def test_a_fault_in_one_head_leaves_all_other_rows_alone() -> None:
    """Scopes are what they say."""
    case = DecodeCase.from_text("S=64,pos=40/50,H=4,D=16,block=16,tail=poison")
    problem = Problem.of(case)
    sound = MODEL(problem.inputs).output
    for scope, rows in ((Scope.HEAD, {(1, 2)}), (Scope.SEQUENCE, {(1, h) for h in range(4)})):
        broken = mutant(FAULTS["no-mask"], scope)(problem.inputs).output
        changed = (broken != sound).any(-1).squeeze(-1).nonzero().tolist()
        assert {tuple(row) for row in changed} == rows


@pytest.mark.parametrize("mutants", parts(trials(DTYPES), 40))
def test_no_fault_gets_a_false_name_and_none_where_it_is_left_out(
    mutants: list[tuple[str, str, str]],
) -> None:
    """At least 9 of 10 get their own or that of their class."""
    done = list(measured(mutants, quiet))
    false = [t for t in done if Naming.FALSE in (t.known, t.left_out)]
    assert false == []
    assert sum(t.known in (Naming.RIGHT, Naming.CLASS) for t in done) >= 0.9 * len(done)


def test_the_docs_have_what_was_recorded_of_all_mutants() -> None:
    """Each mutant once, no false name, and the table in docs/faults.md."""
    data = json.loads((ROOT / "fixtures" / "diagnosis.json").read_text(encoding="utf-8"))
    recorded = data["trials"]
    assert [(t["fault"], t["scope"], t["dtype"]) for t in recorded] == trials(DTYPES)
    docs = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    for dtype in DTYPES:
        for key, suspects in (("known", "all"), ("left_out", "left out")):
            found = [t[key] for t in recorded if t["dtype"] == dtype]
            counts = [found.count(n) for n in Naming if n is not Naming.UNSEEN]
            assert sum(counts) == len(found)
            assert found.count(Naming.FALSE) == 0
            assert f"| {dtype} | {suspects} | {' | '.join(map(str, counts))} |" in docs


@pytest.mark.nightly
def test_the_command_diagnoses_the_same_whatever_the_number_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process and in two others; its JSON has each trial; --jobs alone is refused."""
    found = []
    for jobs in ("1", "2"):
        file = tmp_path / f"{jobs}.json"
        options = ["--diagnose", "--dtypes", "float32", "--max-examples", "40"]
        command = ["faults", *options, "--jobs", jobs, "--json", str(file), "no-mask"]
        assert cli.main(command) == cli.OK
        found.append(json.loads(file.read_text())["trials"])
    assert found[0] == found[1]
    assert [t["scope"] for t in found[0]] == [*Scope]
    assert "4 of 4 mutants diagnosed" in capsys.readouterr().out
    assert cli.main(["faults", "--state", "--jobs", "2"]) == cli.USAGE


@pytest.mark.nightly
def test_the_kill_matrix_is_the_same_whatever_the_number_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process and in two others: cells, their order, and what caught each."""
    found = []
    for jobs in ("1", "2"):
        file = tmp_path / f"{jobs}.json"
        options = ["--dtypes", "float32", "--max-examples", "40", "--jobs", jobs]
        names = ["no-mask", "offset-one-high", "scale-one-percent-off"]
        assert cli.main(["faults", *options, "--json", str(file), *names]) == cli.OK
        cells = json.loads(file.read_text())["cells"]
        found.append([{k: v for k, v in cell.items() if k != "seconds"} for cell in cells])
    assert found[0] == found[1]
    assert len(found[0]) > 3


def test_leaving_a_fault_out_shows_a_false_name() -> None:
    """The measurement can fail: with its neighbour as the only suspect, a fault gets that name."""
    problem = Problem.of(DecodeCase.from_text("S=64,pos=10/60,D=16,block=16"))
    path = mutant(FAULTS["table-of-next-sequence"], Scope.SEQUENCE)
    assert diagnose(path, problem, faults=[FAULTS["table-of-first-sequence"]]).names
