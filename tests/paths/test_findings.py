"""What released torch gets wrong: each finding has a script, a section, and a red test to come.

The tests below expect the defects to be there. The day torch is fixed they turn red: then take
the finding's exclusion, kept case and script out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from harness.case import DecodeCase
from harness.case.kept import KeptCase, load_all
from harness.function.testing import assert_clean
from harness.paths import PATHS
from harness.verdict import Problem, judge
from harness.verdict.known_failures import KNOWN_FAILURES, known_failure
from tests.support import ROOT

SCRIPTS = {path.parent.name: path for path in sorted(ROOT.glob("fixtures/repro/*/script.py"))}
FINDINGS = (ROOT / "FINDINGS.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^### (\S+)$", FINDINGS, re.MULTILINE)
KNOWN = [kept for kept in load_all(ROOT / "fixtures" / "cases") if kept.known_failure]
# Findings that kill the process, with the signals that may end it.
CRASHES = {
    "flexcpu-full-table-strides-oob": ("SIGSEGV",),
    "flexcpu-split-all-idle-heap": ("SIGABRT", "SIGSEGV"),
}


# Where the split decode kernel of later versions is at fault; 2.12 was not run.
NOT_IN_2_11 = {
    "flexcpu-linear-query",
    "flexcpu-split-all-idle",
    "flexcpu-split-all-idle-heap",
    "flexcpu-split-kernel-for-chunk",
    "flexcpu-split-no-full-blocks",
    "flexcpu-split-partition-max",
}
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
SHOWN = [name for name in SCRIPTS if not (OLD and name in NOT_IN_2_11)]


def running(kept: KeptCase) -> Any:
    """A parameter for a test that runs the case."""
    marks = [pytest.mark.compiles] if kept.case.mode != "eager" else []
    return pytest.param(kept, id=kept.name, marks=marks)


class Run(NamedTuple):
    """How a script ended."""

    code: int
    output: str


class DefectShows(Exception):
    """The upstream defect is still there; no other exception is expected."""


def test_every_finding_has_a_script_and_a_section() -> None:
    """Folders under fixtures/repro, sections and rows of the table name the same findings."""
    folders = sorted(path.name for path in ROOT.glob("fixtures/repro/flex*"))
    rows = re.findall(r"^\| \[(\S+)\]\(#\S+\) \|", FINDINGS, re.MULTILINE)
    assert folders
    assert sorted(SCRIPTS) == folders
    assert sorted(SECTIONS) == folders
    assert sorted(rows) == folders
    for name in folders:
        assert f"(fixtures/repro/{name}/script.py)" in FINDINGS


@pytest.mark.parametrize("name", [known.name for known in KNOWN_FAILURES])
def test_every_exclusion_has_a_script_a_section_and_a_kept_case(name: str) -> None:
    """Nothing is taken out of the drawn space without evidence."""
    assert name in SCRIPTS
    assert name in SECTIONS
    assert [kept.name for kept in KNOWN if kept.known_failure == name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_need_torch_alone(name: str) -> None:
    """Under 80 lines, and nothing imported but the standard library and torch."""
    text = SCRIPTS[name].read_text(encoding="utf-8")
    modules = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
    assert set(modules) <= {*sys.stdlib_module_names, "torch"}
    assert len(text.splitlines()) < 80


# Importing torch's compiler takes longer than a script with a warm cache: it is imported once, and
# each script runs in a fork, as the main module of a process of its own.
SERVER = """
import os, runpy, sys
import torch._inductor.compile_fx, torch.nn.attention.flex_attention

for line in sys.stdin:
    script, log = line.rstrip().split(chr(9))
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [script]
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    """Runs a script by its name and returns its exit code, negative for a signal, and output."""
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    log = tmp_path_factory.mktemp("script") / "log"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as server:
        assert server.stdin is not None and server.stdout is not None

        def run(name: str) -> Run:
            log.unlink(missing_ok=True)
            print(SCRIPTS[name], log, sep="\t", file=server.stdin)
            return Run(int(server.stdout.readline()), log.read_text(encoding="utf-8"))

        yield run
        server.stdin.close()


@pytest.mark.compiles
@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.xfail(strict=True, raises=DefectShows, reason="wrong in this torch, see FINDINGS.md")
def test_the_script_finds_the_defect_fixed(name: str, run_script: Callable[[str], Run]) -> None:
    """Exit code 0; while the defect shows it is 1, and any other ending is a failure here."""
    run = run_script(name)
    assert run.code in (0, 1), run
    # An exception that nobody caught ends with 1 as well.
    assert "Traceback" not in run.output, run
    assert "expected" in run.output and "got" in run.output, run
    if run.code == 1:
        if name in CRASHES:
            assert any(f"got {signal}" in run.output for signal in CRASHES[name]), run
        raise DefectShows(run.output)


@pytest.mark.parametrize("kept", [running(kept) for kept in KNOWN if kept.known_failure in SHOWN])
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
    """The exclusion of its name, and no other, takes it out of the drawn space."""
    known = known_failure(PATHS[kept.path], Problem.of(kept.case))
    assert known is not None
    assert known.name == kept.known_failure
