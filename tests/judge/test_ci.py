"""What runs the harness by machine: no exit code but 0 is taken for a success."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.gate import text as gate_report
from harness.gate.item import Item, Step
from harness.gate.steps import Gate
from harness.hunting import text as hunt_report
from harness.hunting.hunt import Hunt
from harness.hunting.journal import Journal
from harness.verdict import Verdict
from tests.support import ROOT


def stand_in(folder: Path, part: str, code: int, said: str = "") -> Path:
    """A Python that ends a part with this code once it has printed this, and all others with 0."""
    (folder / "said").write_text(said)
    file = folder / "python"
    file.write_text(
        f'#!/bin/sh\ncase "$*" in *"{part}"*) cat "{folder}/said"; exit {code};; esac\n'
    )
    file.chmod(0o755)
    return file


def gpu(folder: Path, part: str, code: int, said: str = "") -> tuple[int, str]:
    """``.ci/gpu`` with such a Python: its exit code and what it says of the part."""
    python = stand_in(folder, f"-m {part}", code, said)
    options = ["--device", "cpu", "--python", str(python), "--out", str(folder / "out")]
    done = subprocess.run([ROOT / ".ci" / "gpu", *options], capture_output=True, check=False)
    name = part.split()[1]
    summary = (folder / "out" / "summary.txt").read_text()
    [line] = [line for line in summary.splitlines() if line.startswith(f"{name}: ")]
    assert line in done.stdout.decode()
    return done.returncode, line


def gate(failed: bool) -> str:
    """What a gate prints that had no time for a part, and that saw a failure or none."""
    run = Gate("cpu", 1.0, 0, None, str)
    run.steps = [Step("kept cases", counted=1, cut="half of them")]
    run.steps[0].items = [Item("one", Verdict.WRONG if failed else Verdict.OK)]
    return gate_report.to_markdown(run, "", interrupted=False)


def hunt(folder: Path) -> str:
    """What a hunt prints that lost some work and saw no failure."""
    run = Hunt(("cpp",), 0, Journal(folder / "journal", {}, resume=False), str, 1.0, 1)
    run.lost.append("S=1,pos=0: the worker process is gone")
    return hunt_report.to_markdown(run, [], "", interrupted=False)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 124, 130, 137, 139])
@pytest.mark.parametrize("part", ["harness gate", "harness hunt", "harness bench"])
def test_a_gpu_machine_fails_for_each_exit_code_of_a_part_but_0(
    part: str, code: int, tmp_path: Path
) -> None:
    """And says of none of them that it is right or that nothing failed."""
    ended, said = gpu(tmp_path, part, code, "## 1 failures found\n")
    assert ended == 1
    assert "all right" not in said
    assert "nothing failed" not in said and "o failure" not in said


def test_a_gpu_machine_is_right_where_each_part_is(tmp_path: Path) -> None:
    """Exit 0."""
    assert gpu(tmp_path, "harness gate", 0) == (0, "gate: all right")


@pytest.mark.parametrize("code", [3, 130])
def test_a_gpu_machine_is_incomplete_where_a_log_says_that_no_failure_was_seen(
    code: int, tmp_path: Path
) -> None:
    """Exit 3, by what gate and hunt print; a gate that saw a failure does not say so."""
    assert gpu(tmp_path, "harness gate", code, gate(failed=False))[0] == 3
    assert gpu(tmp_path, "harness hunt", code, hunt(tmp_path))[0] == 3
    assert gpu(tmp_path, "harness gate", code, gate(failed=True))[0] == 1


def step(name: str) -> str:
    """What a step of the workflow for torch's nightly build runs."""
    text = (ROOT / ".github" / "workflows" / "torch-nightly.yml").read_text()
    found = re.search(rf"- name: {name}\n +run: \|\n((?: {{10}}.*\n)+)", text)
    assert found is not None
    return textwrap.dedent(found[1])


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 124, 130])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_night_of_findings_fails_but_for_what_is_no_change(
    earlier: bool, code: int, tmp_path: Path
) -> None:
    """The first night findings show, which is exit code 1; no other code passes."""
    stand_in(tmp_path, "versions", code)
    if earlier:
        (tmp_path / "shown").mkdir()
        (tmp_path / "shown" / "findings.json").write_text("{}")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "-e", "-c", step("Findings that appeared or went")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == (0 if code == 1 and not earlier else code)


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_says_at_its_end_what_all_of_its_processes_took(code: int, tmp_path: Path) -> None:
    """One line, however it ends, under the last one of the tests."""
    tox = (
        f"#!{sys.executable}\n"
        "import time\n"
        "while time.process_time() < 1: pass\n"
        f"print('5 passed', flush=True); raise SystemExit({code})\n"
    )
    for name, text in (("bin/python3", "#!/bin/sh\n"), (".venv/bin/pip", "#!/bin/sh\n")):
        executable(tmp_path / name, text)
    executable(tmp_path / ".venv" / "bin" / "tox", tox)
    script = tmp_path / ".ci" / "run"
    executable(script, (ROOT / ".ci" / "run").read_text())
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    *_, before, last = done.stdout.decode().splitlines()
    assert (done.returncode, before) == (code, "5 passed")
    said = re.fullmatch(r"(\d+) CPU seconds of all processes, \d+ seconds of wall time", last)
    assert said is not None and int(said[1]) >= 1


def executable(file: Path, text: str) -> None:
    """A script that can be run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
