"""The command line: exit codes, files, and errors that name what is wrong."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli
from harness.case import CaseError, DecodeCase
from harness.case.kept import KeptCase, keep, load, load_all
from harness.issue233 import answer
from harness.paths import PATHS, path
from tests.support.altered import altered, times
from tests.support.command import command

SMALL = "S=40,pos=9,H=2,D=16"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["repro", "S=40"], "input_pos (pos): missing"),
        (["repro", "S=40,pos=40"], "input_pos (pos): 40 is beyond the cache"),
        (["repro", "S=40,pos=1,dtype=int8"], "dtype (dtype): 'int8'"),
        (["repro", "gpt-fast-234"], "is not key=value"),
        (["repro", "--dtype", "int8"], "'int8' is not one of float32 bfloat16 float16"),
        (["repro", "--position", "2048"], "0 to S - Q = 2047"),
        (["repro", "--position", "-1"], "--position: '-1'"),
        (["repro", "--position", "1/2"], "--position: '1/2'"),
        (["repro", "--cache-len", "many"], "cache_len (S): 'many'"),
        (["repro", "--cache-len", "64"], "input_pos (pos): 99"),
        (["repro", "--seed", "-1"], "seed (seed)"),
        (["repro", "--device", "tpu"], "--device: 'tpu' is not one of cpu cuda cuda:N"),
        (["repro", "--device", "meta"], "--device: 'meta' is not one of cpu cuda cuda:N"),
        (["repro", SMALL, "--seed", "1"], "--seed: goes with gpt-fast-233"),
        (["repro", SMALL, "--json", "/no/such/folder/a.json"], "there is no directory"),
        (["repro", SMALL, "--script", "."], "is a directory"),
        (["repro", "S=40,pos=9,scale=1e9"], "a score reaches"),
        (["repro", "--no-such-option"], "'--no-such-option' is not one of"),
        (["keep", "Name", SMALL, "--source", "x"], "name: 'Name'"),
        (["keep", "name", SMALL, "--source", " "], "source: is empty"),
        (["keep", "name", SMALL], "required: --source"),
        (["keep", "name", SMALL, "--source", "x", "--path", "no"], "--path: 'no' is not one of"),
        (["keep", "last-slot", SMALL, "--source", "x"], "is there already"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The field or option is named, with what was allowed."""
    assert command(*arguments) == cli.USAGE
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


def test_cuda_without_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a silent run on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command("repro", "--device", "cuda") == cli.USAGE
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_any_case_runs_on_all_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a table, JSON and a script."""
    files = [tmp_path / "a.json", tmp_path / "a.py"]
    assert command("repro", SMALL, "--json", str(files[0]), "--script", str(files[1])) == cli.OK
    assert "full-cache" in capsys.readouterr().out
    assert json.loads(files[0].read_text())["case"] == SMALL
    compile(files[1].read_text(), "a.py", "exec")


def test_a_failing_path_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but OK or UNSUPPORTED on a path that counts."""
    broken = dataclasses.replace(altered(times(2)), name="full-cache")
    monkeypatch.setitem(PATHS, "full-cache", broken)
    assert command("repro", SMALL) == cli.NOT_OK


def test_nothing_judged_exits_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths UNSUPPORTED is not a success."""
    monkeypatch.setattr(path, "why_not", lambda device: "no compiler here")
    assert command("repro", SMALL + ",mode=compiled") == cli.USAGE


def test_an_interrupt_exits_130_with_what_is_known_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C once a path is judged: its row is printed."""
    left = [answer.judge]

    def interrupted(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        return left.pop()(*arguments)

    monkeypatch.setattr(answer, "judge", interrupted)
    assert command("repro", SMALL, "--json", str(tmp_path / "a.json")) == cli.INTERRUPTED
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-1][0] == next(iter(PATHS))
    assert rows[-1][-1] == "OK"
    assert list(tmp_path.iterdir()) == []


def test_the_package_runs_as_a_module() -> None:
    """python -m harness, exit code included."""
    result = subprocess.run(
        [sys.executable, "-m", "harness", "repro", "S=8,pos=9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == cli.USAGE
    assert result.stderr == (
        "harness repro: error: input_pos (pos): 9 is beyond the cache; allowed are -1 (idle) and"
        " 0 to S - Q = 7\n"
    )


def test_importing_the_package_imports_no_torch() -> None:
    """A test plugin must not pay for torch before a test needs it."""
    code = "import sys, harness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kept_case_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keep writes is what the tests load; without the folder it is an error."""
    monkeypatch.chdir(tmp_path)
    keep = ["keep", "edge", SMALL, "--source", "a run", "--path", "full-cache"]
    assert command(*keep) == cli.USAGE
    (tmp_path / "fixtures" / "cases").mkdir(parents=True)
    assert command(*keep) == cli.OK
    (kept,) = load_all(tmp_path / "fixtures" / "cases")
    assert (kept.name, str(kept.case), kept.source, kept.path) == (
        "edge",
        SMALL,
        "a run",
        "full-cache",
    )
    assert (tmp_path / "fixtures/cases/edge.json").read_text() == (
        f'{{\n "case": "{SMALL}",\n "source": "a run",\n "path": "full-cache"\n}}\n'
    )


def test_a_kept_case_of_an_older_version_is_read_as_before(tmp_path: Path) -> None:
    """With the fields of the case instead of its id, and those that are empty."""
    case = DecodeCase.from_text(
        "S=300,pos=99/-1/7,H=4,Hkv=2,D=32,mask=window:64,tail=poison,seed=3"
    )
    fields = json.loads(case.to_json())
    old = {"case": fields, "source": "a run", "path": "", "known_failure": ""}
    (tmp_path / "old.json").write_text(json.dumps(old, indent=1))
    (kept,) = load_all(tmp_path)
    assert kept == KeptCase("old", case, "a run")
    again = keep(kept, tmp_path / "..")
    assert load(again) == kept
    assert len(again.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a.json: not JSON: Expecting"),
        ("[]", "is not a JSON object"),
        ('{"source": "x"}', "case: missing"),
        ('{"case": "S=4,pos=9", "source": "x"}', "a.json: input_pos (pos): "),
        ('{"case": 7, "source": "x"}', "case: 7 is not a text"),
        ('{"source": "x", "colour": 1}', "unknown field 'colour'"),
        ('{"case": {"cache_len": 1}, "source": "x"}', "input_pos (pos): missing"),
    ],
)
def test_a_bad_kept_case_names_the_file_and_the_field(
    text: str, message: str, tmp_path: Path
) -> None:
    """Strict loading."""
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CaseError) as caught:
        list(load_all(tmp_path))
    assert "a.json" in str(caught.value)
    assert message in str(caught.value)
