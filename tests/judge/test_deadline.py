"""Hypothesis' deadline of 200 ms, which judging exceeds: lifted unless the user has stated one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.plugged import pytest_in
from tests.support.processes import Preloaded

COMMON = """
import datetime
import time
import unittest

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import harness
from harness import assert_decodes, decode_cases

CASES = st.sampled_from(["S=3,pos=1,D=16"])
few = settings(max_examples=1)

def mine(query, key_cache, value_cache, input_pos):
    n = int(input_pos[0]) + 1
    key, value = (c[:, :, :n].double() for c in (key_cache, value_cache))
    weights = torch.softmax(query.double() @ key.mT * query.size(3) ** -0.5, -1)
    return (weights @ value).to(query.dtype)

def slowly(case):
    harness.assert_decodes(mine, case)
    time.sleep(0.3)
"""
LIFTED = """
@given(CASES)
@settings(max_examples=1)
def test_given_above(case):
    slowly(case)

@settings(max_examples=1)
@given(CASES)
def test_given_below(case):
    slowly(case)

@few
@given(CASES)
def test_settings_in_a_variable(case):
    slowly(case)

@settings(few, print_blob=True)
@given(CASES)
def test_settings_with_a_parent(case):
    slowly(case)

@given(CASES)
def test_no_settings(case):
    slowly(case)

@pytest.fixture(scope="module")
def judged():
    return slowly

@few
@given(case=CASES)
def test_called_by_a_fixture(judged, case):
    judged(case)

@pytest.mark.parametrize("check", [slowly, assert_decodes])
@few
@given(case=CASES)
def test_parametrized(check, case):
    check(case) if check is slowly else check(mine, case)

@few
@given(decode_cases(head_dims=(16,)))
def test_drawn_alone(case):
    time.sleep(0.3)

@example("S=3,pos=1,D=16")
@few
@given(CASES)
def test_explicit_example(case):
    slowly(case)

class TestPlain:
    @given(CASES)
    @few
    def test_method(self, case):
        slowly(case)

class TestUnit(unittest.TestCase):
    @given(CASES)
    @few
    def test_method(self, case):
        slowly(case)

class Machine(RuleBasedStateMachine):
    @rule(case=CASES)
    def judge(self, case):
        slowly(case)

    def teardown(self):
        slowly("S=3,pos=1,D=16")

TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=1, stateful_step_count=1)

def test_within():
    @few
    @given(CASES)
    def inner(case):
        slowly(case)

    inner()
"""
STATED = """
@settings(max_examples=1, deadline=200)
@given(CASES)
def test_as_many_milliseconds_as_the_default(case):
    slowly(case)

stated = settings(deadline=datetime.timedelta(milliseconds=150))

@given(CASES)
@settings(stated, max_examples=1)
def test_in_a_parent(case):
    slowly(case)

@few
@given(st.none())
def test_not_ours(nothing):
    time.sleep(0.3)
"""
CONFTEST = """
from hypothesis import settings
settings.register_profile("mine", settings.get_profile("default"), max_examples=1)
settings.register_profile("stated", max_examples=1, deadline=250)
# As it were in a run outside of CI.
settings.load_profile("mine")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Tests that take 0.3 s each, in all forms in which Hypothesis finds its settings."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_lifted.py").write_text(COMMON + LIFTED)
    (tmp_path / "test_stated.py").write_text(COMMON + STATED)
    return tmp_path


def test_only_the_default_deadline_of_tests_that_judge_is_lifted(
    project: Path, preloaded: Preloaded
) -> None:
    """Wherever settings stand or come from; what the user has stated fails as it should."""
    done = pytest_in(project, preloaded, "-q", "-rA", "--tb=line")
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) (\w+)\.py", done.stdout, re.M)
    tests = (LIFTED + STATED).count("def test_") + 2  # one has two parameters, one is a machine
    assert len(outcomes) == tests, done.stdout
    for outcome, file in outcomes:
        assert outcome == ("PASSED" if file == "test_lifted" else "FAILED"), done.stdout
    exceeded = re.findall(r"^E +hypothesis.errors.DeadlineExceeded", done.stdout, re.M)
    assert len(exceeded) == STATED.count("def test_"), done.stdout


def test_a_deadline_of_a_profile_stays(project: Path, preloaded: Preloaded) -> None:
    """One that is chosen on the command line."""
    chosen = ("--hypothesis-profile=stated", "test_lifted.py", "-k", "no_settings")
    done = pytest_in(project, preloaded, "-q", *chosen)
    assert "DeadlineExceeded" in done.stdout
    assert "exceeds the deadline of 250.00ms" in done.stdout
