"""``python -m harness check``: what it finds, how small, and how to see it again."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from harness import cli
from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.features import FEATURES, features_of
from harness.function.text import wrapped
from harness.script.function_script import target_script
from harness.strategies.drawing import domain_cases
from tests.support import ROOT, TARGETS
from tests.support.command import check, command
from tests.support.day import parts
from tests.support.processes import Preloaded

SMALL = "S=4,pos=1,D=16"


pytestmark = pytest.mark.usefixtures("one_thread", "unhurried")


def test_a_sound_function_with_every_feature_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """120 drawn cases in a worker; every feature covered; the figures in text and JSON."""
    file = tmp_path / "a.json"
    arguments = ("--max-examples", "120", "--json", str(file), "--script", str(tmp_path / "a.py"))
    assert command("check", f"{TARGETS}:sound", *arguments) == cli.OK
    assert capsys.readouterr().out.startswith("OK ")
    found = json.loads(file.read_text())
    assert (found["verdict"], found["case"]) == ("OK", None)
    counts = found["items_by_source"]
    assert counts["drawn"] == 120
    judged = counts["drawn"] + counts["production"] + counts["precision"]
    assert found["examples"] + found["invalid"] == judged
    assert set(found["features"]) == set(FEATURES)
    assert min(found["features"].values()) > 0
    assert 0 < found["max_utilisation"] <= 1
    wanted = "target verdict examples seconds case diagnosis max_utilisation graphs environment"
    assert set(wanted.split()) <= set(found)
    assert found["environment"]["torch"]
    assert not (tmp_path / "a.py").exists()


@pytest.mark.parametrize("alone", parts(FEATURES, 3))
def test_without_a_declaration_nothing_beyond_the_base_is_drawn(alone: list[str]) -> None:
    """And each feature, alone, is drawn where it is declared."""
    for features in ((), *((name,) for name in alone)):
        cases = domain_cases(Domain(features), 0)
        drawn = [next(cases) for _ in range(100)]
        assert {name for case in drawn for name in features_of(case)} <= set(features)
        if features != ("ragged",):
            assert any(features_of(case) == features for case in drawn)
        assert all(Domain(features).refuses(case) is None for case in drawn)


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    """Another one draws other cases. Which large cases are run depends on the time that they take,
    so there are none here."""
    found = []
    sizes = ("--cache-len", "1:8", "--head-dims", "16")
    for seed in ("5", "5", "6"):
        file = tmp_path / "a.json"
        check("base", "--max-examples", "20", "--seed", seed, *sizes, "--json", str(file))
        found.append(json.loads(file.read_text())["worst_case"])
    assert found[0] == found[1] != found[2]


@pytest.mark.rotates(2)
@pytest.mark.parametrize("name", ["base", "off_by_one"])
def test_the_same_seed_finds_the_same_whatever_the_number_of_jobs(
    name: str, tmp_path: Path
) -> None:
    """The first case in their order that fails, in however many processes they run; where none
    does, all are judged."""
    found = []
    sizes = ("--cache-len", "1:8", "--head-dims", "16", "--max-examples", "40")
    for jobs in ("1", "3"):
        file = tmp_path / "a.json"
        words = (f"{TARGETS}:{name}", *sizes, "--jobs", jobs, "--json", str(file))
        assert command("check", *words) == (cli.OK if name == "base" else cli.NOT_OK)
        read = json.loads(file.read_text())
        found.append((read["case"], name != "base" or read["items_by_source"]["drawn"]))
    assert found[0] == found[1]
    assert found[0] in [("S=2,pos=1,D=16", True), (None, 40)]


@pytest.mark.parametrize(
    ("name", "verdict", "case"),
    [
        ("off_by_one", "WRONG", "S=2,pos=1,D=16"),
        ("crashes_on_two", "CRASH", "S=4,B=2,pos=3,D=16"),
    ],
)
def test_a_failure_is_shrunk_to_the_smallest_case(
    name: str, verdict: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that ends the process; said what it was shrunk from. One that never returns is in
    test_shrink.py."""
    file, script = tmp_path / "a.json", tmp_path / "a.py"
    files = ("--json", str(file), "--script", str(script))
    assert command("check", f"{TARGETS}:{name}", *files) == cli.NOT_OK
    compile(script.read_text(), "a.py", "exec")
    found = json.loads(file.read_text())
    assert found["verdict"] == verdict
    assert found["case"] == case != found["shrunk_from"]
    text = capsys.readouterr().out
    assert text.startswith(f"{verdict} ")
    assert f"shrunk from {found['shrunk_from']}" in _unwrapped(text)
    assert f"--case {case}" in found["repro"] + text


def test_a_hang_is_ended_and_scripted(tmp_path: Path) -> None:
    """At its time limit."""
    file, script = tmp_path / "a.json", tmp_path / "a.py"
    options = ("--case", "S=4,pos=0,D=16", "--timeout", "2")
    files = ("--json", str(file), "--script", str(script))
    assert command("check", f"{TARGETS}:hangs", *options, *files) == cli.NOT_OK
    compile(script.read_text(), "a.py", "exec")
    found = json.loads(file.read_text())
    assert found["verdict"] == "TIMEOUT"
    assert found["findings"][0]["evidence"] == "did not return within 2 s"


def _unwrapped(text: str) -> str:
    """Text whose lines were broken at spaces and behind the commas of a case id."""
    return re.sub(r"(?<=\S),\n {11}(?=\w+=)", ",", text).replace("\n" + " " * 11, " ")


def test_one_answer_in_one_process_and_again_by_the_command_that_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Found in a loop whose first call fails: the smallest case, its cause, and then the figures of
    the search, which count the failure; the command shows the same."""
    answers = []
    for arguments in ((), ("--case", "S=2,pos=1,D=16,mask=window:1")):
        file = tmp_path / f"{len(answers)}.json"
        assert check("window_one_wide", *arguments, "--json", str(file)) == cli.NOT_OK
        answers.append((json.loads(file.read_text()), capsys.readouterr().out))
    (searched, text), (named, _) = answers
    for name in ("verdict", "findings", "case", "calls", "diagnosis", "diagnosis_text", "repro"):
        assert searched[name] == named[name], name
    assert searched["case"] == "S=2,pos=1,D=16,mask=window:1"
    assert searched["diagnosis"] == ["window-one-wide"]
    assert searched["calls"] == [] != searched["shrunk_from"].split()[1:]
    assert searched["max_utilisation"] == named["max_utilisation"] > 1e4
    assert searched["features"]["window"] > 0
    labels = [line[:11].strip() for line in text.splitlines() if line[0] != " "]
    assert labels.index("case") < labels.index("diagnosis") < labels.index("repro")
    assert labels.index("repro") < labels.index("search") < labels.index("worst")
    long = [line for line in text.splitlines() if len(line) > 100]
    assert all(line.startswith(("case ", "repro ")) for line in long)


def test_without_a_name_the_shrunk_case_is_described(tmp_path: Path) -> None:
    """Where it is wrong, of the case that is shown, for which positions, and what it attends; in
    no more than twelve lines."""
    file = tmp_path / "a.json"
    assert command("check", f"{TARGETS}:strong_from_20", "--json", str(file)) == cli.NOT_OK
    found = json.loads(file.read_text())
    assert found["shrunk_from"] != found["case"] == "S=21,pos=20,D=16"
    assert not found["diagnosis"]
    where, positions, *_ = found["diagnosis_text"]
    assert where.endswith(f"of {found['case']}")
    assert positions == "wrong at positions from 20 on"
    assert len([*wrapped(*found["diagnosis_text"], label="diagnosis")]) <= 12


def test_the_repro_command_shows_it_again() -> None:
    """--case runs that case alone, unshrunk."""
    case = "S=40,pos=5,D=16,tail=poison"
    assert check("off_by_one", "--case", case) == cli.NOT_OK
    assert check("base", "--case", case) == cli.OK


@pytest.mark.parametrize(
    ("name", "status", "case"),
    [
        ("off_by_one", 1, SMALL),
        ("crashes_on_two", -signal.SIGSEGV, "S=4,B=2,pos=3,D=16"),
        (
            "sound",
            0,
            "S=40,pos=5/7,H=4,Hkv=2,D=16,mask=window:4,score=softcap:5+alibi,layout=stepped",
        ),
    ],
)
def test_the_script_exits_1_while_the_bug_shows(
    name: str, status: int, case: str, tmp_path: Path, preloaded: Preloaded
) -> None:
    """It needs torch and the function's own file, nothing of the harness."""
    mine = TARGETS.read_text()
    for line, instead in (
        ("from harness.case.features import FEATURES", "FEATURES = ()"),
        (
            "from harness.function.limits import MEMORY, MEMORY_PER_THREAD",
            "MEMORY = MEMORY_PER_THREAD = 0",
        ),
    ):
        assert line in mine
        mine = mine.replace(line, instead)
    (tmp_path / "mine.py").write_text(mine)
    text = target_script(f"mine.py:{name}", DecodeCase.from_text(case), "cpu")
    (tmp_path / "show.py").write_text(text)
    result = preloaded.run("show.py", folder=tmp_path, without=["harness"])
    assert result.returncode == status, result.stdout + result.stderr
    assert ("rounding budgets" in result.stdout) is (status >= 0)
    assert "harness" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.compiles
def test_compiled_graphs_are_counted(tmp_path: Path) -> None:
    """One graph per geometry, whatever the positions."""
    file = tmp_path / "a.json"
    arguments = ("--compile", "--max-examples", "6", "--cache-len", "64:64", "--json", str(file))
    assert check("base", *arguments) == cli.OK
    found = json.loads(file.read_text())
    assert found["graphs"] == found["geometries_compiled"] >= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("returns_tuple", "WRONG: returned tuple, not a tensor"),
        ("returns_none", "WRONG: returned NoneType, not a tensor"),
        ("wrong_shape", "WRONG: shape is (1, 1, 16), should be (1, 1, 1, 16)"),
        ("wrong_dtype", "WRONG: dtype is torch.float64, should be torch.float32"),
        ("wrong_device", "WRONG: device is meta, should be cpu"),
        ("raises", "ERROR: IndexError: list index out of range"),
        ("needs_cuda", "ERROR: RuntimeError: expected a CUDA tensor"),
    ],
)
def test_a_bad_result_is_one_clear_line_and_exit_1(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is and what it should be."""
    assert check(name) == cli.NOT_OK
    assert any(line.strip().startswith(message) for line in capsys.readouterr().out.splitlines())


def test_no_relation_is_stricter_than_the_budget(
    tmp_path: Path, preloaded: Preloaded, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sum of integers that is off by rounding, which a function never declared to be exact; the
    script agrees."""
    script = tmp_path / "a.py"
    case = "S=64,pos=63,D=16,probe=integers"
    assert check("with_epsilon", "--case", case) == cli.OK, capsys.readouterr().out
    text = target_script(f"{TARGETS}:with_epsilon", DecodeCase.from_text(case), "cpu")
    script.write_text(text)
    assert preloaded.run(script, folder=tmp_path, path=[ROOT]).returncode == 0


def test_nothing_but_unsupported_is_exit_2_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NotImplementedError on every case."""
    assert check("never", "--max-examples", "7") == cli.USAGE
    text = capsys.readouterr().out
    assert text.startswith("UNSUPPORTED ")
    assert "NotImplementedError: no case at all" in text.splitlines()[1]
    times = re.search(r"UNSUPPORTED (\d+) times: raised NotImplementedError: no case at all", text)
    assert times
    assert int(times[1]) >= 7


def test_ok_on_few_of_the_cases_says_so_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the first line, and in JSON; where most were judged, the line is as ever."""
    file = tmp_path / "a.json"
    assert check("seldom", "--max-examples", "30", "--json", str(file)) == cli.OK
    found = json.loads(file.read_text())
    judged, others = found["examples"], sum(found["unsupported"].values())
    assert 0 < judged < others
    assert found["mostly_unsupported"] is True
    first = (
        f"OK on {judged} of {judged + others} cases alone, the others are UNSUPPORTED: {TARGETS}"
    )
    assert capsys.readouterr().out.startswith(first)
    assert check("base", "--max-examples", "5", "--json", str(file)) == cli.OK
    assert json.loads(file.read_text())["mostly_unsupported"] is False
    assert capsys.readouterr().out.startswith(f"OK {TARGETS}")


def test_without_isolation_the_case_is_written_down_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a crash still has its repro; the file goes when the run ends well."""
    written: list[str] = []
    real = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, text, at: (written.append(text.decode()), real(fd, text, at))
    )
    assert check("base", "--case", SMALL) == cli.OK
    assert written == [f"{SMALL}\n"]
    file = Path(capsys.readouterr().err.split("always in ")[1].split()[0])
    assert not file.exists()
