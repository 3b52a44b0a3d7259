"""The gate keeps to its time, and reads what the scripts of findings say."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.gate import known
from harness.gate import steps as gate
from harness.gate.item import Item, Step
from harness.gate.steps import Gate
from tests.support import ROOT


def one(self: Gate, step: Step) -> Iterator[Item]:
    """A step that is soon done."""
    step.counted += 1
    yield Item("one")


def endless(self: Gate, step: Step) -> Iterator[Item]:
    """A step whose second item never ends."""
    yield from one(self, step)
    step.doing = "what sleeps"
    time.sleep(10**6)
    yield Item("what sleeps")


def test_what_runs_over_the_time_is_ended_and_listed_as_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what comes after it is left out: INCOMPLETE, exit 3, with all that was done."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gate, "LEAST_OVER", gate.REPORT)
    monkeypatch.setattr(gate, "PLAN", {"a": (one, 1), "b": (endless, 1), "c": (one, 1)})
    file = tmp_path / "gate.json"
    words = ["gate", "--budget", "4s", "--no-isolation", "--json", str(file)]
    assert cli.main(words) == cli.INCOMPLETE
    said = capsys.readouterr().out
    assert said.startswith("## Decoding gate: INCOMPLETE: 2 verdicts on cpu, 0 failed")
    assert "\nNo failure was seen.\n" in said
    assert "- not run, ended, it ran over the time: what sleeps" in said
    assert "- c: no time for any of it" in said
    document = json.loads(file.read_text())
    assert document["incomplete"] == {"b": "what it had left to do", "c": "any of it"}
    assert [step["verdicts"] for step in document["steps"]] == [1, 1, 0]


Told = dict[str, tuple[str, str]]

SCRIPTS = {
    "flexcpu-shows": "import sys; sys.exit('expected 1, got 2')",
    "flexcpu-gone": "print('fixed')",
    "flexcpu-imports": "import a_module_that_is_not_there",
    "flexcpu-ends-with-7": "import sys; print('what it saw', file=sys.stderr); sys.exit(7)",
    "flexcpu-is-no-python": "this is no Python",
    "flexcpu-killed": "import os; os.kill(os.getpid(), 9)",
    "flexcpu-prints": "import sys; print('x' * 2**24); print('line\\n' * 2**20); sys.exit(1)",
    # Its child holds its pipes open, and would for ever.
    "flexcpu-leaves-a-child": "import subprocess, sys; subprocess.Popen([sys.executable, '-c',"
    " 'import time; time.sleep(10**6)']); sys.exit(1)",
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], Told]:
    """What the gate says of scripts of known failures: verdict and evidence by name."""

    def gated(scripts: dict[str, str]) -> Told:
        monkeypatch.chdir(ROOT)
        for name, text in scripts.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "script.py").write_text(text)
        monkeypatch.setattr(known, "SCRIPTS", tmp_path)
        monkeypatch.setattr(gate, "PLAN", {"known failures": gate.PLAN["known failures"]})
        file = tmp_path / "gate.json"
        words = ["gate", "--budget", "30m", "--no-isolation", "--json", str(file)]
        assert cli.main(words) == cli.NOT_OK
        [step] = json.loads(file.read_text())["steps"]
        return {item["name"]: (item["verdict"], item["evidence"]) for item in step["checks"]}

    return gated


def test_a_script_that_hangs_is_red(
    told: Callable[[dict[str, str]], Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends alone, at its own limit."""
    monkeypatch.setattr(known, "TIMEOUT", 1.0)
    found = told({"flexcpu-hangs": "import time; time.sleep(10**6)"})
    assert found == {"flexcpu-hangs": ("TIMEOUT", "its script hangs: it did not end within 1 s")}


def test_a_script_that_says_nothing_about_its_finding_is_red(
    told: Callable[[dict[str, str]], Told],
) -> None:
    """It is not taken for still there; the last line on stderr is told."""
    found = told(SCRIPTS)
    could_not = "its script could not run: it ended with"
    assert found.pop("flexcpu-gone")[1].startswith("FIXED in this torch")
    verdict, said = found.pop("flexcpu-is-no-python")
    assert verdict == "ERROR" and "SyntaxError" in said
    assert found == {
        "flexcpu-shows": ("OK", "still there"),
        "flexcpu-prints": ("OK", "still there"),
        "flexcpu-leaves-a-child": ("OK", "still there"),
        "flexcpu-imports": (
            "ERROR",
            f"{could_not} 1: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        "flexcpu-ends-with-7": ("ERROR", f"{could_not} 7: what it saw"),
        "flexcpu-killed": ("ERROR", f"{could_not} SIGKILL"),
    }
