"""``python -m harness check``: what it says of bad input, and what it leaves when interrupted."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from tests.support import ROOT, TARGETS
from tests.support.command import command
from tests.support.processes import ends, interruptible, written

SMALL = "S=4,pos=1,D=16"


pytestmark = pytest.mark.usefixtures("one_thread")

T = str(TARGETS)
HERE = "--no-isolation"


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
        ([f"{T}:needs_window"], "options need a default, or their features stand in requires"),
        ([f"{T}:base", "--supports", "gqa,paged"], "supports: 'paged' is not one of gqa"),
        ([f"{T}:base", "--requires", "paged"], "--requires: 'paged' is not one of gqa"),
        ([f"{T}:base", "--precision", "score"], "--precision: 'score' is not [DTYPE.]NAME=DTYPE"),
        ([f"{T}:base", "--precision", "int8.score=bf16"], "precision: 'int8' is not one of operan"),
        ([f"{T}:base", "--precision", "bf16.scores=bf16"], "precision bfloat16: 'scores' is not o"),
        ([f"{T}:base", "--precision", "score=int8"], "precision score: 'int8' is not one of"),
        ([f"{T}:base", "--dtypes", "int8"], "--dtypes: 'int8' is not one of float32"),
        ([f"{T}:base", "--dtypes", ""], "--dtypes: '' is not one of float32"),
        ([f"{T}:base", "--head-dims", "0"], "head_dims: 0 is not a whole number in 1 to 1024"),
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
        ([f"{T}:base", "--case", "S=4,pos=1,D=5"], "--case: D=5 is not in head_dims"),
        ([f"{T}:base", "--case", SMALL, "--seed", "1"], "--seed: says what to draw, but --case"),
        ([f"{T}:base", "--timeout", "3"], "--timeout: needs a process of its own"),
        ([f"{T}:base", "--jobs", "0"], "--jobs: '0' is not a whole number >= 1"),
        ([f"{T}:base", "--jobs", "2"], "--jobs: needs processes of their own"),
        ([f"{T}:base", "--json", "a", "--script", "a"], "--json and --script: both name a"),
        ([f"{T}:base", "--json", "/no/such/a"], "there is no directory /no/such"),
        ([f"{T}:base", "--script", "."], "is a directory"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named, with what is allowed; nothing on stdout."""
    assert command("check", *arguments, "--no-isolation") == cli.USAGE
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


@pytest.mark.parametrize(
    ("text", "message", "isolation"),
    [
        ("import none_such\n", "raised ModuleNotFoundError: No module named 'none_such'", [HERE]),
        ("def decode(\n", "raised SyntaxError: ", [HERE]),
        ("import sys\nsys.exit(9)\n", "raised SystemExit: 9 (bad.py, line 2)", [HERE]),
        ("import sys\nsys.exit(9)\n", "raised SystemExit: 9 (bad.py, line 2)", []),
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
    assert command("check", f"{tmp_path / 'bad.py'}:decode", *isolation) == cli.USAGE
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_interrupt_exits_130_and_says_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a case runs: what was judged until then, on paper too; no process is left."""
    begun = tmp_path / "begun"
    monkeypatch.setenv("BEGUN", str(begun))
    command = [sys.executable, "-m", "harness", "check", f"{TARGETS}:waits", "--timeout", "600"]
    with (
        interruptible(),
        subprocess.Popen(
            [*command, "--json", str(tmp_path / "a.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        pids = written(begun, lambda: process.poll() is None).split()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == cli.INTERRUPTED
    assert err.splitlines()[-1] == "interrupted"
    assert out.startswith(f"INTERRUPTED {TARGETS}:waits: nothing judged yet\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "begun"]
    found = json.loads((tmp_path / "a.json").read_text())
    assert (found["interrupted"], found["verdict"], found["examples"]) == (True, None, 0)
    assert all(ends(int(pid)) for pid in pids)


def takes_sigint() -> bool:
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    return subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


def test_a_child_can_be_interrupted_where_this_process_cannot() -> None:
    """As in a background job of a shell, where the test above would wait for its case to end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not takes_sigint()
        with interruptible():
            assert takes_sigint()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
