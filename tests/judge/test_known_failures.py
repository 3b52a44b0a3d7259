"""Known failures of torch cover the cases in which they show, and no others."""

from __future__ import annotations

import pytest

from harness.case import DecodeCase
from harness.case.kept import FOLDER, KeptCase, load_all
from harness.paths import PATHS
from harness.verdict import Problem
from harness.verdict.known_failures import KNOWN_FAILURES, known_failure
from tests.support import ROOT

FULL = PATHS["full-cache"]
KNOWN = [kept for kept in load_all(ROOT / FOLDER) if kept.known_failure]
PLAIN = (
    "S=64,pos=9,mode=compiled",
    "S=64,pos=9/-1,H=4,Hkv=2,dtype=bf16,mask=window:7,score=alibi,layout=bshd,mode=compiled",
    "S=1024,pos=900,mode=compiled",
    "S=1024,pos=900/3,Q=2,block=64,tail=poison,mode=compiled",
)


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that compiles, whatever this one does."""
    monkeypatch.setattr("harness.verdict.known_failures.why_not", lambda device: None)


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_call_is_covered_by_none(text: str) -> None:
    """In the general and in the split kernel: what is covered is left out of what is judged."""
    case = DecodeCase.from_text(text)
    assert known_failure(FULL, Problem.of(case)) is None
    assert known_failure(FULL, Problem.of(case.replace(mode="eager"))) is None


@pytest.mark.parametrize("kept", KNOWN, ids=lambda kept: kept.name)
def test_a_case_that_shows_one_is_covered_by_it(kept: KeptCase) -> None:
    """The kept case of each finding, on the path that shows it."""
    # Tiles are cut with vectors of AVX2 alone.
    vectors = {"kernels": "avx2"} if kept.known_failure == "flexcpu-cut-tile" else {}
    path, problem = PATHS[kept.path or "full-cache"], Problem.of(kept.case.replace(**vectors))
    covering = [known.name for known in KNOWN_FAILURES if known.covers(path, problem, "cpu")]
    assert kept.known_failure in covering
