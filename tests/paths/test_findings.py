"""What released torch gets wrong: each finding has a script, a section, and a red test to come.

The tests below expect the defects to be there. The day torch is fixed they turn red: then take
the finding's exclusion, kept case and script out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from harness.case import DecodeCase
from harness.case.kept import KeptCase, load_all
from harness.decoding.cpp_kernels import TILE, lanes
from harness.function.testing import assert_clean
from harness.paths import PATHS
from harness.verdict import Problem, judge
from harness.verdict.known_failures import KNOWN_FAILURES, known_failure
from tests.support import ROOT
from tests.support.day import nightly, rotated
from tests.support.processes import Preloaded

SCRIPTS = {path.parent.name: path for path in sorted(ROOT.glob("fixtures/repro/*/script.py"))}
FINDINGS = (ROOT / "FINDINGS.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### (\S+)$", FINDINGS, re.MULTILINE)
KNOWN = [kept for kept in load_all(ROOT / "fixtures" / "cases") if kept.known_failure]
TRITON, MODELS = "flextriton-", "model-"
# Findings that kill the process, with the signals that may end it.
CRASHES = {
    "flexcpu-empty-query": ("SIGFPE",),
    "flexcpu-full-table-strides-oob": ("SIGSEGV",),
    "flexcpu-split-all-idle-heap": ("SIGABRT", "SIGSEGV"),
}


RECORDED = json.loads((ROOT / "fixtures" / "findings.json").read_text(encoding="utf-8"))["versions"]
HERE = torch.__version__.partition("+")[0]
FIXED = {r["script"] for r in RECORDED if r["torch"] == HERE and r["shows"] is False}
SHOWN = [name for name in SCRIPTS if name not in FIXED]


def running(kept: KeptCase) -> Any:
    """A parameter for a test that runs the case."""
    marks = [pytest.mark.compiles] if kept.case.mode != "eager" else []
    return pytest.param(kept, id=kept.name, marks=marks)


class DefectShows(Exception):
    """The upstream defect is still there; no other exception is expected."""


def test_every_finding_has_a_script_and_a_section() -> None:
    """Folders under fixtures/repro, sections and rows of the table name the same findings."""
    folders = sorted(path.name for path in ROOT.glob("fixtures/repro/[!.]*/"))
    rows = re.findall(r"^\| \[(\S+)\]\(#\S+\) \|", FINDINGS, re.MULTILINE)
    assert folders
    assert sorted(SCRIPTS) == folders
    assert sorted(SECTIONS) == folders
    assert sorted(rows) == folders
    for name in folders:
        assert f"(fixtures/repro/{name}/script.py)" in FINDINGS


def test_findings_say_in_which_versions_of_torch_they_were_seen() -> None:
    """As ``versions --json`` recorded it, of every script that needs a CPU and torch alone."""
    shown: dict[str, dict[str, bool | None]] = {}
    for row in RECORDED:
        shown.setdefault(row["script"], {})[row["torch"]] = row["shows"]
    assert set(shown) == {name for name in SCRIPTS if not name.startswith((TRITON, MODELS))}
    for name, of in shown.items():
        section = FINDINGS.split(f"### {name}\n")[1].split("\n### ")[0]
        [line] = re.findall(r"^- Shows in: torch (.*)\.$", section, re.MULTILINE)
        where, _, others = line.partition("; ")
        assert where.split(", ") == [version for version, shows in of.items() if shows]
        for version, shows in of.items():
            assert (version in others) == (not shows)


def test_every_finding_in_another_kernel_has_a_script_and_a_section() -> None:
    """Scripts under fixtures/kernels and sections name the same findings."""
    scripts = sorted(path.stem for path in ROOT.glob("fixtures/kernels/*.py"))
    sections = re.findall(r"^#### ([a-z0-9]+(?:-[a-z0-9]+)+)$", FINDINGS, re.MULTILINE)
    assert scripts
    assert sorted(sections) == scripts
    for name in scripts:
        assert f"(fixtures/kernels/{name}.py)" in FINDINGS


@pytest.mark.parametrize("name", [known.name for known in KNOWN_FAILURES])
def test_every_exclusion_has_a_script_a_section_and_a_kept_case(name: str) -> None:
    """Nothing is taken out of the drawn space without evidence."""
    assert name in SCRIPTS
    assert name in SECTIONS
    assert [kept.name for kept in KNOWN if kept.known_failure == name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_need_torch_alone(name: str) -> None:
    """Under 80 lines, and nothing imported but the standard library and torch; what shows in Triton
    kernels needs Triton as well, and some lines to interpret them; what shows in a model, its
    package."""
    more = {TRITON: "triton", MODELS: "transformers"}
    needed = [package for start, package in more.items() if name.startswith(start)]
    text = SCRIPTS[name].read_text(encoding="utf-8")
    modules = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
    assert set(modules) <= {*sys.stdlib_module_names, "torch", *needed}
    assert len(text.splitlines()) < (90 if name.startswith(TRITON) else 80)


def scripts() -> list[Any]:
    """A parameter for each script with what it needs; the day leaves out those whose defect a kept
    case shows, and runs a third of the others."""
    needs = {TRITON: pytest.mark.interprets, MODELS: pytest.mark.models}
    marked = {
        name: pytest.param(
            name,
            marks=next(
                (m for start, m in needs.items() if name.startswith(start)), pytest.mark.compiles
            ),
        )
        for name in SHOWN
    }
    kept = {kept.known_failure for kept in KNOWN}
    return [
        *(nightly(value) for name, value in marked.items() if name in kept),
        *rotated((value for name, value in marked.items() if name not in kept), 3),
    ]


@pytest.mark.rotates(1)
@pytest.mark.parametrize("name", scripts())
@pytest.mark.xfail(strict=True, raises=DefectShows, reason="wrong in this torch, see FINDINGS.md")
def test_the_script_finds_the_defect_fixed(name: str, preloaded: Preloaded) -> None:
    """Exit code 0; while the defect shows it is 1, and any other ending is a failure here."""
    if name.startswith((TRITON, MODELS)):
        # Triton has to be told before torch is imported; transformers changes what torch does.
        command = [sys.executable, "-W", "ignore", str(SCRIPTS[name])]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        run = preloaded.run(SCRIPTS[name], folder=ROOT)
    assert run.returncode in (0, 1), run
    # An exception that nobody caught ends with 1 as well.
    assert "Traceback" not in run.stderr, run
    # What sys.exit says goes to stderr.
    output = run.stdout + run.stderr
    assert "expected" in output and "got" in output, run
    if run.returncode == 1:
        if name in CRASHES:
            assert any(f"got {signal}" in output for signal in CRASHES[name]), run
        raise DefectShows(output)


def kept_cases() -> list[KeptCase]:
    """Those that fail here; the scripts of the others make a machine like this show them."""
    narrow = lanes() < TILE
    shown = [kept for kept in KNOWN if kept.known_failure in SHOWN]
    return [kept for kept in shown if narrow or kept.known_failure != "flexcpu-cut-tile"]


@pytest.mark.rotates(2)
@pytest.mark.parametrize("kept", [running(kept) for kept in kept_cases()])
def test_the_kept_case_of_a_known_failure_still_fails(kept: KeptCase) -> None:
    """An explicit example that must fail; it turns red once the path is OK on it."""
    assert torch.get_num_threads() == 1

    reason = f"{kept.known_failure}, see FINDINGS.md"

    @(example(case=kept.case).xfail(raises=AssertionError, reason=reason).via(kept.source))
    @settings(phases=[Phase.explicit])
    @given(case=st.just(kept.case))
    def path_is_ok(case: DecodeCase) -> None:
        path, problem = PATHS[kept.path], Problem.of(case)
        # What nobody wrote may happen to be right, so one OK is not enough.
        judgements = (judge(path, problem) for _ in range(50))
        assert_clean(kept.path, case, next((j.findings for j in judgements if j.findings), ()))

    path_is_ok()


@pytest.mark.parametrize("kept", KNOWN, ids=lambda kept: kept.name)
def test_the_kept_case_lies_in_the_excluded_region(kept: KeptCase) -> None:
    """The exclusion of its name, and no other, takes it out of the drawn space; where vectors are
    short, as some need."""
    with torch._inductor.config.patch({"cpp.simdlen": 256}):
        known = known_failure(PATHS[kept.path], Problem.of(kept.case))
    assert known is not None
    assert known.name == kept.known_failure
