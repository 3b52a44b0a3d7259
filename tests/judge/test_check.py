"""``python -m harness check``: what it finds, how small, and what it says of bad input."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli
from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.features import FEATURES, features_of
from harness.function.shrink import shrink
from harness.script.function_script import target_script
from harness.strategies.functions import domain_cases
from tests.support import ROOT, TARGETS
from tests.support.processes import ends

SMALL = "S=4,pos=1,D=16"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(*arguments: str) -> int:
    try:
        return cli.main(["check", *arguments])
    except SystemExit as exit:  # argparse's own usage errors
        assert isinstance(exit.code, int)
        return exit.code


def here(name: str, *arguments: str) -> int:
    """In this process: no worker to start."""
    return run(f"{TARGETS}:{name}", "--no-isolation", *arguments)


def test_a_sound_function_with_every_feature_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """300 examples in a worker; every feature covered; the figures in text and JSON."""
    file = tmp_path / "a.json"
    arguments = ("--max-examples", "300", "--json", str(file), "--script", str(tmp_path / "a.py"))
    assert run(f"{TARGETS}:sound", *arguments) == cli.OK
    assert capsys.readouterr().out.startswith("OK ")
    found = json.loads(file.read_text())
    assert (found["verdict"], found["examples"], found["case"]) == ("OK", 300, None)
    assert set(found["features"]) == set(FEATURES)
    assert min(found["features"].values()) > 0
    assert 0 < found["max_utilisation"] <= 1
    wanted = "target verdict examples seconds case diagnosis max_utilisation graphs environment"
    assert set(wanted.split()) <= set(found)
    assert found["environment"]["torch"]
    assert not (tmp_path / "a.py").exists()


def test_without_a_declaration_nothing_beyond_the_base_is_drawn() -> None:
    """And each feature, alone, is drawn where it is declared."""
    for features in ((), *((name,) for name in FEATURES)):
        cases = domain_cases(Domain(features), 0)
        drawn = [next(cases) for _ in range(100)]
        assert {name for case in drawn for name in features_of(case)} <= set(features)
        if features != ("ragged",):
            assert any(features_of(case) == features for case in drawn)
        assert all(Domain(features).refuses(case) is None for case in drawn)


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    """Another one draws other cases."""
    found = []
    for seed in ("5", "5", "6"):
        file = tmp_path / "a.json"
        here("base", "--max-examples", "20", "--seed", seed, "--json", str(file))
        found.append(json.loads(file.read_text())["worst_case"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("name", "verdict", "case"),
    [
        ("off_by_one", "WRONG", "S=3,pos=1,D=16"),
        ("crashes_on_two", "CRASH", "S=4,B=2,pos=3,D=16"),
        ("hangs", "TIMEOUT", "S=4,pos=0,D=16"),
    ],
)
def test_a_failure_is_shrunk_to_the_smallest_case(
    name: str, verdict: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that ends the process or never returns; said what it was shrunk from."""
    file, script = tmp_path / "a.json", tmp_path / "a.py"
    files = ("--json", str(file), "--script", str(script))
    assert run(f"{TARGETS}:{name}", *files, "--timeout", "2") == cli.NOT_OK
    compile(script.read_text(), "a.py", "exec")
    found = json.loads(file.read_text())
    assert (found["verdict"], found["case"]) == (verdict, case)
    assert found["shrunk_from"] != case
    text = capsys.readouterr().out
    assert text.startswith(f"{verdict} ")
    assert f"shrunk from {found['shrunk_from']}" in text
    assert f"--case {case}" in found["repro"] + text


def test_the_repro_command_shows_it_again() -> None:
    """--case runs that case alone, unshrunk."""
    case = "S=40,pos=5,D=16,tail=poison"
    assert here("off_by_one", "--case", case) == cli.NOT_OK
    assert here("base", "--case", case) == cli.OK


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
    name: str, status: int, case: str, tmp_path: Path
) -> None:
    """It needs torch and the function's own file, nothing of the harness."""
    mine = TARGETS.read_text().replace("from harness.case.domain import FEATURES", "FEATURES = ()")
    (tmp_path / "mine.py").write_text(mine)
    text = target_script(f"mine.py:{name}", DecodeCase.from_text(case), "cpu")
    (tmp_path / "show.py").write_text(text)
    result = subprocess.run(
        [sys.executable, "-c", "import runpy; runpy.run_path('show.py')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    assert ("rounding budgets" in result.stdout) is (status >= 0)
    assert "harness" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.compiles
def test_compiled_graphs_are_counted(tmp_path: Path) -> None:
    """One graph per geometry, whatever the positions."""
    file = tmp_path / "a.json"
    arguments = ("--compile", "--max-examples", "6", "--cache-len", "64:64", "--json", str(file))
    assert here("base", *arguments) == cli.OK
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
    assert here(name) == cli.NOT_OK
    assert any(line.strip().startswith(message) for line in capsys.readouterr().out.splitlines())


def test_nothing_but_unsupported_is_exit_2_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NotImplementedError on every case."""
    assert here("never", "--max-examples", "7") == cli.USAGE
    text = capsys.readouterr().out
    assert text.startswith("UNSUPPORTED ")
    assert "UNSUPPORTED 7 times: raised NotImplementedError: no case at all" in text


T = str(TARGETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-colon"], "TARGET: 'no-colon' is not package.module:function or path/to/file.py:"),
        (["no_such_module:f"], "there is no module no_such_module"),
        (["harness.no_such:f"], "there is no module harness.no_such"),
        (["no/such.py:f"], "there is no file no/such.py"),
        ([f"{T}:no_such"], "has no function 'no_such'; it has sound"),
        ([f"{T}:NOT_A_FUNCTION"], "is of type int, not a function"),
        ([f"{T}:three_arguments"], "cannot be called with query, key_cache, value_cache, input_p"),
        ([f"{T}:no_window"], "cannot be called with query, key_cache, value_cache, input_pos, win"),
        ([f"{T}:unknown_feature"], "supports: 'paged' is not one of gqa ragged chunk"),
        ([f"{T}:unknown_precision"], "precision: 'scores' is not one of operand score"),
        ([f"{T}:base", "--supports", "gqa,paged"], "supports: 'paged' is not one of gqa"),
        ([f"{T}:base", "--precision", "score"], "--precision: 'score' is not NAME=DTYPE"),
        ([f"{T}:base", "--precision", "score=int8"], "precision score: 'int8' is not one of"),
        ([f"{T}:base", "--dtypes", "int8"], "--dtypes: 'int8' is not one of float32"),
        ([f"{T}:base", "--dtypes", ""], "--dtypes: '' is not one of float32"),
        ([f"{T}:base", "--head-dims", "0"], "head dim 0 is not in 1 to 1024"),
        ([f"{T}:base", "--head-dims", "x"], "--head-dims: 'x' is not whole numbers"),
        ([f"{T}:base", "--cache-len", "9"], "--cache-len: '9' is not MIN:MAX"),
        ([f"{T}:base", "--cache-len", "9:8"], "cache_len 9:8 is not MIN:MAX"),
        ([f"{T}:base", "--max-examples", "0"], "--max-examples: '0' is not a whole number >= 1"),
        ([f"{T}:base", "--seconds", "nan"], "--seconds: 'nan' is not a number of seconds"),
        ([f"{T}:base", "--seed", "x"], "--seed: 'x' is not a whole number"),
        ([f"{T}:base", "--device", "tpu"], "--device: 'tpu' is not one of cpu cuda"),
        ([f"{T}:base", "--case", "S=4"], "input_pos (pos): missing"),
        ([f"{T}:base", "--case", "S=4,pos=1/2"], "--case: needs ragged: not in supports"),
        ([f"{T}:base", "--case", "S=4,pos=1,mask=document:2"], "--case: mask=document:2; a func"),
        ([f"{T}:base", "--case", "S=4,pos=1,D=5"], "--case: D=5 is not in --head-dims"),
        ([f"{T}:base", "--case", SMALL, "--seed", "1"], "--seed: says what to draw, but --case"),
        ([f"{T}:base", "--timeout", "3"], "--timeout: needs a process of its own"),
        ([f"{T}:base", "--json", "a", "--script", "a"], "--json and --script: both name a"),
        ([f"{T}:base", "--json", "/no/such/a"], "there is no directory /no/such"),
        ([f"{T}:base", "--script", "."], "is a directory"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named, with what is allowed; nothing on stdout."""
    assert run(*arguments, "--no-isolation") == cli.USAGE
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


@pytest.mark.parametrize("isolation", [["--no-isolation"], []])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing\n", "raised ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def decode(\n", "raised SyntaxError: "),
        ("import sys\nsys.exit(9)\n", "raised SystemExit: 9 (bad.py, line 2)"),
    ],
)
def test_a_file_that_does_not_import_is_exit_2(
    text: str,
    message: str,
    isolation: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it raised, and where."""
    (tmp_path / "bad.py").write_text(text)
    assert run(f"{tmp_path / 'bad.py'}:decode", *isolation) == cli.USAGE
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_without_hypothesis_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A named case needs none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert here("base") == cli.USAGE
    assert "pip install 'flexdecode-harness[strategies]'" in capsys.readouterr().err
    monkeypatch.undo()
    assert here("base", "--case", SMALL) == cli.OK


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a target says that it has begun."""
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    return tmp_path / "begun"


def test_an_interrupt_exits_130_and_leaves_nothing(begun: Path, tmp_path: Path) -> None:
    """Ctrl-C while a case runs: no file, no process."""
    command = [sys.executable, "-m", "harness", "check", f"{TARGETS}:waits"]
    with subprocess.Popen(
        [*command, "--json", str(tmp_path / "a.json")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(600):
            if begun.exists() and begun.read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert err.splitlines()[-1] == "interrupted"
    assert out == ""
    assert [file.name for file in tmp_path.iterdir()] == ["begun"]
    assert ends(int(begun.read_text()))


def test_without_isolation_the_case_is_written_down_before_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a crash still has its repro; the file goes when the run ends well."""
    written: list[str] = []
    real = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, text, at: (written.append(text.decode()), real(fd, text, at))
    )
    assert here("base", "--case", SMALL) == cli.OK
    assert written == [f"{SMALL}\n"]
    file = Path(capsys.readouterr().err.split("always in ")[1].split()[0])
    assert not file.exists()


def test_shrinking_reaches_what_a_predicate_needs() -> None:
    """Batch, heads, cache, positions, options and values, all at once."""
    case = DecodeCase.from_text(
        "S=900,pos=700/31/-1/8,H=24,Hkv=3,D=256,Dv=64,Q=17,dtype=bf16,mask=window:300,"
        "score=softcap:20+alibi,scale=0.5,layout=longer,tail=nan,logits=huge,probe=needle:690,seed=9"
    )
    small = shrink(case, lambda c: c.q_len >= 2 and max(c.input_pos) >= 5 and c.heads > c.kv_heads)
    assert str(small) == "S=7,pos=5,H=2,Hkv=1,D=1,Q=2"
    assert shrink(case, lambda c: None) == case
