"""How a failing test of a user looks with the plugin: the user's own lines, and the message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.plugged import PLUGIN, pytest_in
from tests.support.processes import Preloaded

TESTS = """
import sys
import torch
from hypothesis import given, settings, strategies as st
from harness import assert_cached_decoding, assert_decodes, cache_machine
from harness.case import DecodeCase

def zeros(query, key_cache, value_cache, input_pos):
    return torch.zeros_like(query)

def helper(numbers):
    return numbers[100]

def raises(query, key_cache, value_cache, input_pos):
    return helper([1])

def exits(query, key_cache, value_cache, input_pos):
    sys.exit(3)

def begin(batch, slots):
    raise RuntimeError("no such model")

def test_wrong():
    assert_decodes(zeros, "S=9,pos=3,D=16")

def test_raises():
    assert_decodes(raises, "S=9,pos=3,D=16")

def test_exits():
    assert_decodes(exits, "S=9,pos=3,D=16")

def test_bad_id():
    assert_decodes(zeros, "S=9,pos=10,D=16")

def test_bad_declaration():
    zeros.supports = {"everything"}
    try:
        assert_decodes(zeros, "S=9,pos=3,D=16")
    finally:
        del zeros.supports

def test_bad_class():
    cache_machine(dict)

def test_bad_scenario():
    assert_cached_decoding(begin, None, vocabulary=1000, scenarios=["token"])

def test_bad_model():
    assert_cached_decoding(begin, None, vocabulary=1000, scenarios="tokens")

@settings(max_examples=1, database=None)
@given(case=st.builds(DecodeCase.from_text, st.just("S=9,pos=3,D=16")))
def test_drawn(case):
    assert_decodes(raises, case)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose tests fail in every way."""
    (tmp_path / "test_project.py").write_text(TESTS)
    return tmp_path


def test_a_failure_shows_the_users_lines_alone(project: Path, preloaded: Preloaded) -> None:
    """What the function raised with the line that did; no frame of the harness, and no heading
    with nothing under it."""
    done = pytest_in(project, preloaded, "-rN")
    text = done.stdout
    assert "9 failed" in text
    # A frame ends in such a line, in each style of a traceback.
    assert {*re.findall(r"^([\w./-]+\.py):\d+: ", text, re.M)} == {"test_project.py"}
    for line in (
        "ERROR: IndexError: list index out of range (test_project.py, line 12, in helper)",
        ">       return numbers[100]",
        ">       sys.exit(3)",
        "E       harness.case.errors.CaseError: input_pos (pos): 10 is beyond the cache; allowed"
        " are -1 (idle) and 0 to S - Q = 8",
        "harness.case.domain.DomainError: supports: 'everything' is not one of gqa",
        "E       harness.function.spec.TargetError: dict has no method",
        "E       ValueError: scenarios: 'token' is not one of tokens chunks",
        "E       RuntimeError: no such model",
    ):
        assert line in text
    lines = [re.sub(r"^E +", "", line) for line in text.splitlines()]
    headings = [i for i, line in enumerate(lines) if line.strip() == "diagnosis:"]
    assert len(headings) == 1
    assert lines[headings[0] + 1].strip()


def test_full_trace_shows_the_frames(project: Path, preloaded: Preloaded) -> None:
    """Of the harness too."""
    done = pytest_in(project, preloaded, "-rN", "--full-trace", "-k", "test_wrong or bad_model")
    assert "def assert_decodes(" in done.stdout
    assert "def assert_cached_decoding(" in done.stdout


def test_a_fault_of_the_harness_shows_its_frames(project: Path, preloaded: Preloaded) -> None:
    """Whoever reports it needs them."""
    broken = "import harness.verdict.judging as judging\njudging.attempt = None\n"
    (project / "conftest.py").write_text(broken)
    done = pytest_in(project, preloaded, "-rN", "-k", "test_wrong")
    assert "TypeError: 'NoneType' object is not callable" in done.stdout
    assert re.search(r"harness/verdict/judging.py:\d+: TypeError", done.stdout)


def failed_and_said(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Whether the test's own failure was shown, with what was said of keeping it."""
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "AssertionError: raises is ERROR" in done.stdout
    for text in said:
        assert text in done.stdout


def test_where_nothing_can_be_kept_the_failure_is_shown(
    project: Path, preloaded: Preloaded
) -> None:
    """With a line among the warnings, even where the project makes errors of them."""
    (project / "fixtures").write_text("a file")
    done = pytest_in(project, preloaded, "-W", "error", "-k", "test_drawn")
    failed_and_said(done, "the failing case was not kept", "fixtures is not a directory", "warning")


def test_a_read_only_checkout_is_no_internal_error(project: Path) -> None:
    """Nor is a full one: what the system says stands in the line."""
    script = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
    )
    read_only = ["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    if subprocess.run([*read_only, project, "true"], check=False, capture_output=True).returncode:
        pytest.skip("not run: no namespace of mounts can be made here")
    command = [sys.executable, "-m", "pytest", *PLUGIN, "-k", "test_drawn", "--decode-cases=kept"]
    done = subprocess.run(
        [*read_only, project, *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    failed_and_said(done, "the failing case was not kept", "kept")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("test_project.py", "--decode-cases: 'test_project.py': *test_project.py is not a folder"),
        ("test_project.py/a", "--decode-cases: 'test_project.py/a': *.py is not a folder"),
        ("", "--decode-cases: is empty; allowed is a folder"),
    ],
)
def test_a_folder_that_is_none_is_a_usage_error(
    value: str, message: str, project: Path, preloaded: Preloaded
) -> None:
    """Before any test runs."""
    done = pytest_in(project, preloaded, f"--decode-cases={value}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(re.escape(message).replace(r"\*", ".*"), done.stderr), done.stderr
    assert "test session starts" not in done.stdout
