"""The pytest plugin, in a project that is not this one."""

import json
import re
import subprocess
import sys

import pytest
import torch

from harness.case import DecodeCase
from harness.case.kept import KeptCase, keep
from tests.support import ROOT
from tests.support.plugged import INSTALLED, PLUGIN, pytest_in
from tests.support.processes import Preloaded

pytest_plugins = ["pytester"]
TESTS = """
import torch
from hypothesis import given, settings
from harness import assert_decodes, decode_cases
from harness.case import DecodeCase

def mine(query, key_cache, value_cache, input_pos, **options):
    n = int(input_pos[0]) + 1
    group = query.size(1) // key_cache.size(1)
    key, value = (
        c[:, :, :n].float().repeat_interleave(group, 1) for c in (key_cache, value_cache)
    )
    weights = torch.softmax(query.float() @ key.mT * query.size(3) ** -0.5, -1)
    result = (weights @ value).to(query.dtype)
    return result * FACTOR if key_cache.size(2) > 5 else result

@given(case=decode_cases(dtype="bfloat16", supports={"gqa"}, head_dims=(16,)))
def test_mine(case, tmp_path_factory):
    assert_decodes(mine, case)

def test_one_case():
    assert_decodes(mine, DecodeCase.from_text("S=9,pos=3,D=16"))

def not_today(*arguments, **options):
    raise NotImplementedError("not today")

def test_unsupported():
    assert_decodes(not_today, DecodeCase.from_text("S=9,pos=3,D=16"))
"""
SLUG = "test-project-test-mine"
KEPT = "fixtures/decode-cases"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A scratch project whose decode path is off by a factor, beyond 5 slots."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Hypothesis then draws the same cases in every run, so that the smallest is always the same.
    monkeypatch.setenv("CI", "1")
    if not INSTALLED:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_project="FACTOR = 1.5\n" + TESTS)
    return pytester


def run(project: pytest.Pytester, preloaded: Preloaded, *arguments: str) -> pytest.RunResult:
    done = pytest_in(project.path, preloaded, *arguments)
    return pytest.RunResult(
        done.returncode, done.stdout.splitlines(), done.stderr.splitlines(), 0.0
    )


def kept(project: pytest.Pytester) -> list[dict[str, object]]:
    files = sorted((project.path / KEPT).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def test_a_failure_is_told_and_kept(project: pytest.Pytester, preloaded: Preloaded) -> None:
    """The smallest case, with the verdict and the repro."""
    result = run(project, preloaded, "-k", "test_mine or test_unsupported", "--junitxml=report.xml")
    result.assert_outcomes(failed=1, skipped=1)
    text = result.stdout.str()
    assert "AssertionError: mine is WRONG" in text
    assert "repro: python -m harness check test_project.py:mine --case S=6,pos=0,D=16" in text
    assert "case=DecodeCase.from_text('S=6,pos=0,D=16" in text
    assert "Explanation:" not in text
    assert "not explained by any known fault: output wrong in the sequence, the head" in text
    assert "decode: torch " + torch.__version__ in text
    # Frames of the harness are hidden.
    assert "def assert_decodes" not in text
    report = (project.path / "report.xml").read_text()
    assert 'name="decode_max_utilisation"' in report
    (case,) = kept(project)
    assert case["source"] == "failed in test_project.py::test_mine"
    assert DecodeCase.from_text(str(case["case"])).cache_len == 6
    [file] = (project.path / KEPT).iterdir()
    assert re.fullmatch(rf"{SLUG}-[0-9a-f]{{8}}\.json", file.name)


def test_a_kept_case_is_run_first(project: pytest.Pytester, preloaded: Preloaded) -> None:
    """Nothing is drawn here, so what fails is the kept case; once it passes it stays kept."""
    (project.path / KEPT).mkdir(parents=True)
    case = DecodeCase.from_text("S=6,pos=0,D=16")
    keep(KeptCase(f"{SLUG}-01234567", case, "a run"), project.path / KEPT)
    project.makeconftest(
        "from hypothesis import Phase, settings\n"
        "settings.register_profile('kept', phases=[Phase.explicit])\n"
        "settings.load_profile('kept')\n"
    )
    before = kept(project)
    run(project, preloaded, "-k", "test_mine").assert_outcomes(failed=1)
    mended = (project.path / "test_project.py").read_text().replace("1.5", "1.0")
    (project.path / "test_project.py").write_text(mended)
    run(project, preloaded, "-k", "test_mine").assert_outcomes(passed=1)
    assert before[0] in kept(project)


def test_workers_keep_the_same_case_once(project: pytest.Pytester, preloaded: Preloaded) -> None:
    """Under xdist, with the folder that was asked for."""
    folder = project.path / "elsewhere"
    arguments = ("-n", "2", "--dist", "each", "--decode-cases", str(folder), "-k", "test_mine")
    result = run(project, preloaded, *arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    files = list(folder.iterdir())
    [case] = [DecodeCase.from_text(json.loads(file.read_text())["case"]) for file in files]
    assert case.cache_len == 6
    assert not (project.path / KEPT).exists()


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_bad_kept_case_is_a_usage_error_that_names_it(
    workers: tuple[str, ...], project: pytest.Pytester, preloaded: Preloaded
) -> None:
    """Never a test that silently runs without it, nor a worker of xdist that dies."""
    (project.path / KEPT).mkdir(parents=True)
    name = "test-project-test-mine-0123abcd.json"
    (project.path / KEPT / name).write_text("{")
    result = run(project, preloaded, *workers, "-k", "test_mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{name}: not JSON: Expecting*"])
    assert "INTERNALERROR" not in result.stdout.str()


@pytest.mark.skipif(torch.cuda.is_available(), reason="not run: there is a CUDA device")
def test_a_required_gpu_that_is_not_there_is_a_usage_error(
    project: pytest.Pytester, preloaded: Preloaded
) -> None:
    """And without the option, a test marked for a GPU is not run."""
    result = run(project, preloaded, "--decode-require-gpu")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --decode-require-gpu: torch sees no CUDA device"])
    project.makepyfile(
        test_gpu="import pytest\n@pytest.mark.decode_gpu\ndef test_gpu():\n    assert False\n"
    )
    result = run(project, preloaded, "--strict-markers", "-rs", "test_gpu.py")
    result.assert_outcomes(skipped=1)
    assert "not run: no CUDA device" in result.stdout.str()


def test_a_session_without_a_test_of_ours_pays_for_nothing(project: pytest.Pytester) -> None:
    """Neither torch nor Hypothesis is imported by the plugin, and no header is shown."""
    project.makepyfile(
        test_other="import sys\n\ndef test_other():\n"
        "    heavy = {'torch', 'harness.function.testing', 'harness.strategies.paths'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    # In a process that nothing was imported into beforehand.
    result = project.runpytest_subprocess(*PLUGIN, "test_other.py", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    assert "decode: torch" not in result.stdout.str()
    code = (
        "import sys, harness.pytest_plugin\n"
        "sys.exit(bool({'torch', 'hypothesis'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
