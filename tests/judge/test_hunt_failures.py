"""Failures of a hunt: told apart, made small by suspects, explained by those found before."""

from __future__ import annotations

import json
import math

import pytest

from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.hunting.failure import Found, refused, sign, told_by
from harness.hunting.suspects import Suspects
from harness.hunting.work import judge_cases, look_beside, make_small
from harness.paths import PATHS
from harness.strategies.factors import covering
from harness.verdict import Problem, Verdict
from harness.verdict.known_failures import known_as, split_decode


def test_a_value_of_which_every_geometry_fails_is_suspect_in_its_own_kernel() -> None:
    """The more of them fail alike, the likelier; a plain value is none, nor one that is right."""
    suspects = Suspects()
    pool = covering("cpp", 0)
    for one in pool:
        suspects.add("cpp", one, ["numbers"] if one.case.tables == "counts-expanded" else [])
    some = next(one for one in pool if one.case.tables == "counts-expanded")
    [(share, factor), *others] = suspects.of("cpp", some, "numbers")
    assert (share, factor) == (1.0, "tables")
    assert all(less < 1.0 for less, _ in others)
    assert suspects.of("triton", some, "numbers") == []
    assert suspects.of("cpp", some, "CRASH") == []


def test_a_suspect_saves_most_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case with nothing but the suspect value is tried first, in the same kernel."""
    run: list[DecodeCase] = []

    def counted(case: DecodeCase, threads: int, device: str) -> Outcome:
        run.append(case)
        wrong = case.tables == "counts-expanded" and not split_decode(case)
        return Outcome.found(Verdict.WRONG, "x") if wrong else Outcome(utilisation=0.1)

    monkeypatch.setattr("harness.hunting.work.run", counted)
    text = (
        "S=1024,pos=9/7/3,H=4,Hkv=2,Q=3,dtype=bf16,block=64/32,mask=window:70,score=alibi,"
        "layout=bshd,tables=counts-expanded,options=partition:64,mode=compiled"
    )
    told = sign(Outcome.found(Verdict.WRONG, "x"))
    small = make_small(text, 1, "cpu", told, ["tables", "options"], math.inf)
    told_fast = len(run)
    assert small["case"] == "S=256,pos=9,tables=counts-expanded,mode=compiled"
    assert make_small(text, 1, "cpu", told, [], math.inf)["case"].count(",") == 3
    assert told_fast == 3 < (len(run) - told_fast) / 2


def found(text: str, outcome: Outcome, *, wide: bool = False) -> Found:
    return Found(DecodeCase.from_text(text), 1, outcome, text, 1.0, wide)


def test_errors_are_told_by_their_message_without_names_and_numbers() -> None:
    """Files and variables differ from run to run."""
    first = Outcome.found(Verdict.ERROR, "CppCompileError: 'cur_qSplitSize0' (cab23.py, line 7)")
    second = Outcome.found(Verdict.ERROR, "CppCompileError: 'cur_qSplitSize5' (cxyz4.py, line 9)")
    other = Outcome.found(Verdict.ERROR, "ValueError: not enough values (cab23.py, line 7)")
    assert sign(first) == sign(second) != sign(other)
    wrong, leak = (Outcome.found(v, "x") for v in (Verdict.WRONG, Verdict.LEAK))
    assert sign(wrong) == sign(leak)


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ("ValueError: Q and KV block size must be divisible by BLOCK_M and BLOCK_N", True),
        ("NotImplementedError: NYI", True),
        ("ValueError: not enough values to unpack (expected 4, got 2)", False),
        ("NoValidChoicesError: No choices to select", False),
    ],
)
def test_a_refusal_says_what_it_wants(evidence: str, expected: bool) -> None:
    """An error that nobody foresaw does not."""
    assert refused(sign(Outcome.found(Verdict.ERROR, evidence))) is expected


def test_a_failure_that_needs_certain_data_hides_no_other_of_its_kernel() -> None:
    """All sequences idle, or scores far below 0; one that shows with any data explains both."""
    wrong = Outcome.found(Verdict.WRONG, "x")
    idle = DecodeCase.from_text("S=600,pos=-1,mode=compiled")
    low, plain = (idle.replace(input_pos=(9,), logits=logits) for logits in ("low", "normal"))
    told = [told_by(case, wrong) for case in (idle, low, plain)]
    assert told == ["numbers, all idle", "numbers, scores far below 0", "numbers"]
    whose = [found(str(case), wrong) for case in (idle, low, plain)]
    explains = [[one.explains(low, "cpu", what) for what in told] for one in whose]
    assert explains == [[True, False, False], [False, True, False], [True, True, True]]


def test_a_failure_explains_what_has_all_that_it_needs_in_the_same_kernel() -> None:
    """Sizes and values may differ; the split kernel is another one."""
    wrong = Outcome.found(Verdict.WRONG, "x")
    one = found("S=256,pos=9,layout=bshd,mode=compiled", wrong)
    same = DecodeCase.from_text("S=300,B=2,pos=9,H=4,layout=bshd,score=alibi,mode=compiled")
    assert one.explains(same, "cpu", sign(wrong))
    assert not one.explains(same, "cpu", "CRASH")
    assert not one.explains(same.replace(layout="contiguous"), "cpu", sign(wrong))
    assert not one.explains(same.replace(cache_len=4096), "cpu", sign(wrong))
    assert Found.from_values(json.loads(json.dumps(one.to_values()))) == one


@pytest.mark.compiles
def test_a_defect_of_torch_is_found_again_made_small_and_shown_by_its_script() -> None:
    """In a process of its own: flexcpu-full-table-strides, with much else about the call."""
    text = (
        "S=256,pos=10/200,H=4,Hkv=2,D=32,block=64,score=alibi,tables=counts-expanded,tail=poison,"
        "mode=compiled"
    )
    judged = judge_cases([text], 1, "cpu")
    outcome = Outcome.from_values(judged["outcomes"][0])
    assert outcome.verdict in (Verdict.WRONG, Verdict.LEAK)
    small = make_small(text, 1, "cpu", sign(outcome), ["score", "tables"], math.inf)
    case = DecodeCase.from_text(small["case"])
    assert (case.tables, case.score, case.heads) == ("counts-expanded", "none", 1)
    beside = look_beside(small["case"], 1, "cpu", sign(outcome), False, math.inf)
    case = DecodeCase.from_text(beside["case"])
    assert (case.tables, case.batch, case.heads) == ("counts-expanded", 2, 1)
    assert case.cache_len < 256
    assert beside["beside"]["eager"] == "OK"
    assert beside["shows"] is True
    known = known_as(PATHS["full-cache"], Problem.of(case), stopped=False)
    assert known == "flexcpu-full-table-strides"
