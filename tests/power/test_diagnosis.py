"""Diagnosis: the fault behind a wrong output, or where the output is wrong."""

import pytest
import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.probes import needle_slots, sweep
from harness.diagnosis.diagnosis import diagnose
from harness.diagnosis.region import REGIONS, regions
from harness.diagnosis.smaller import fits_dense_model, smaller
from harness.faults import FAULTS
from harness.faults.mutants import MODEL, Scope, mutant
from harness.inputs import Inputs
from harness.paths import PATHS, Path, Result
from harness.verdict import Problem, Verdict, judge
from tests.support.altered import altered, times

UNMASKED = "full-cache-unmasked"
PLAIN = Problem.of(DecodeCase.from_text("S=300,pos=200,H=4,D=16,block=64"))


def test_the_reports_slice_is_a_query_at_position_0() -> None:
    """By the same machinery as any other path, with its remedy and its source."""
    diagnosis = diagnose(PATHS["sliced-as-reported"], PLAIN)
    assert diagnosis.names == ("no-query-offset",)
    assert "the mask lacks the query offset" in diagnosis.evidence[0]
    assert "input_pos[b]" in diagnosis.remedy
    assert "gpt-fast#233" in diagnosis.source


def test_a_missing_mask_is_named() -> None:
    """For one query token it equals a mask aligned to the end of the buffer, for three not."""
    diagnosis = diagnose(PATHS["full-cache-unmasked"], PLAIN)
    assert diagnosis.names == ("no-mask",)


def test_a_sound_path_gets_no_name() -> None:
    """Nor does one that is off by nothing but rounding."""
    assert diagnose(MODEL, PLAIN).names == ()


def test_suspects_are_told_apart_by_other_arguments() -> None:
    """A hidden newest slot is a stale position too, until a relative bias shows the distance."""
    assert diagnose(mutant(FAULTS["stale-position"]), PLAIN).names == ("stale-position",)


def unnamed(name: str, problem: Problem) -> tuple[str, ...]:
    """The evidence for a planted fault that is no suspect."""
    suspects = [fault for fault in FAULTS.values() if fault.number != FAULTS[name].number]
    found = diagnose(mutant(FAULTS[name]), problem, faults=suspects)
    assert found.names == ()
    return found.evidence


def test_without_a_name_the_options_that_are_needed_are_said() -> None:
    """By taking each away: here the window, not the score_mod."""
    case = DecodeCase.from_text("S=64,pos=40,D=16,block=16,mask=window:9,score=softcap:5")
    evidence = unnamed("window-one-wide", Problem.of(case))
    assert "only with mask=window:9; wrong without block=16, score=softcap:5 too" in evidence


@pytest.mark.parametrize("once", [True, False])
def test_dependence_on_earlier_calls_is_said(once: bool) -> None:
    """Of a path that is wrong in its first two calls alone, the first of which looks for rows that
    are never written; not of one that is always wrong."""
    calls: list[int] = []

    def change(inputs: Inputs, result: Result) -> Tensor:
        calls.append(1)
        return result.output * (2 if len(calls) <= 2 or not once else 1)

    evidence = diagnose(altered(change), PLAIN).evidence
    said = "made again after other calls, it gives another output, which is right"
    assert (said in evidence) == once
    assert any("another output" in line for line in evidence) == once


def test_a_fault_in_one_head_is_named_and_placed() -> None:
    """Which sequence, head and token."""
    path = mutant(FAULTS["scale-twice"], Scope.HEAD)
    problem = Problem.of(PLAIN.case.replace(input_pos=(200, 100)))
    diagnosis = diagnose(path, problem)
    assert diagnosis.names[0] == "scale-twice"
    text = " ".join(diagnosis.evidence)
    assert "sequence 1 of 2" in text
    assert "head 2 of 4" in text


def test_a_wrong_logsumexp_beside_a_right_output_is_named() -> None:
    """Auxiliary results have faults of their own."""
    assert diagnose(mutant(FAULTS["logsumexp-base-two"]), PLAIN).names == ("logsumexp-base-two",)


def test_a_region_is_part_of_the_rows() -> None:
    """All rows first, and each region what its words say, with fewer heads too."""
    case = DecodeCase.from_text("S=64,pos=15/40,B=2,Q=3,H=4,block=16")
    rows = dict(zip(REGIONS, regions(case), strict=True))
    assert rows[""].all()
    assert (
        rows["sequences: last; heads: last but one"].nonzero().unique(dim=0)[:, :2].tolist()
        == [[1, 2]] * 3
    )
    assert rows["query tokens: block edges"].any(1).tolist() == [[True, True, False], [False] * 3]
    single = regions(case.replace(heads=1, kv_heads=1))
    assert single.shape == (len(REGIONS), 2, 1, 3)


def test_a_fault_that_spares_rows_of_every_region_is_not_named() -> None:
    """A row that is right where the fault would make it wrong is evidence against it."""
    broken = mutant(FAULTS["scale-twice"])

    def spared(inputs: Inputs, result: Result) -> Tensor:
        sound = torch.arange(inputs.case.heads).view(-1, 1, 1) % 2 == 1
        return torch.where(sound, result.output, broken(inputs).output)

    diagnosis = diagnose(altered(spared), Problem.of(PLAIN.case.replace(heads=6, kv_heads=6)))
    assert diagnosis.names == ()


def test_an_unknown_fault_is_described_instead() -> None:
    """No name is better than a false one."""
    diagnosis = diagnose(altered(times(2)), PLAIN)
    assert diagnosis.names == ()
    assert diagnosis.evidence[0].startswith(
        "not explained by any known fault: output wrong in the sequence, all heads"
    )


def test_an_unknown_fault_at_block_edges_is_described_by_its_period() -> None:
    """The first wrong position, and the place in a block."""

    def first_of_block(inputs: Inputs, result: Result) -> Tensor:
        t = inputs.input_pos.view(-1, 1, 1, 1) + torch.arange(inputs.case.q_len).view(1, 1, -1, 1)
        return torch.where(t % 64 == 0, result.output * 1.5, result.output)

    problem = Problem.of(PLAIN.case.replace(q_len=70, input_pos=(100,)))
    diagnosis = diagnose(altered(first_of_block), problem)
    assert diagnosis.names == ()
    assert "only at slot 0 of a block of 64" in diagnosis.evidence


def test_a_path_that_only_raises_has_no_diagnosis() -> None:
    """There is no output to explain."""

    def fails(inputs: Inputs) -> None:
        raise ValueError

    assert diagnose(Path("fails", "", fails), PLAIN).names == ()  # type: ignore[arg-type]


def test_a_probe_sweep_has_a_needle_in_every_block_and_at_every_edge() -> None:
    """And at both sides of the window, beside equal weights and integers."""
    case = DecodeCase.from_text("S=200,pos=99,block=32,mask=window:40")
    slots = needle_slots(case)
    assert slots["inside"] == [16, 48, 80, 112, 144, 176, 199]
    assert slots["mask"] == [59, 60]
    assert {0, 31, 32, 95, 96, 99, 100} <= set(slots["edge"])
    probes = [c.probe for c in sweep(case)]
    assert probes[-2:] == ["uniform", "integers"]
    assert all(c.tail == "poison" for c in sweep(case))


def test_a_lost_block_is_seen_by_the_needle_in_it_in_every_dtype() -> None:
    """Where random keys hide it from a tolerance."""
    for dtype in ("float32", "bfloat16", "float16"):
        case = DecodeCase.from_text(f"S=200,pos=199,block=32,H=2,dtype={dtype}")
        path = mutant(FAULTS["last-partial-block-dropped"])
        seen = {c.probe for c in sweep(case) if not judge(path, Problem.of(c)).verdict.passes}
        assert {"needle:199", "needle:192"} <= seen


def test_integers_are_summed_exactly_or_the_path_is_wrong() -> None:
    """One unit in the last place, within any budget, is enough."""
    problem = Problem.of(DecodeCase.from_text("S=64,pos=31,H=2,D=16,probe=integers"))
    assert judge(PATHS["full-cache"], problem).verdict is Verdict.OK

    def one_ulp(inputs: Inputs, result: Result) -> Tensor:
        return torch.nextafter(result.output, torch.tensor(torch.inf))

    judgement = judge(altered(one_ulp), problem)
    assert judgement.verdict is Verdict.WRONG
    assert "should be exactly" in judgement.findings[0].evidence


def test_a_smaller_case_stands_for_one_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is named by a case that fails as well, and the evidence says which."""
    monkeypatch.setattr("harness.diagnosis.smaller.DENSE_ELEMENTS", 2**13)
    for name, fault in (("sliced-as-reported", "no-query-offset"), (UNMASKED, "no-mask")):
        found = diagnose(PATHS[name], PLAIN)
        assert fault in found.names
        assert f"{PLAIN.case} is too large for the fault models" in found.evidence[-1]
        assert "a smaller case that fails, S=150,pos=50,D=16,block=64" in found.evidence[-1]


def test_a_large_case_is_not_diagnosed_where_no_smaller_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is said, and where the output is wrong."""
    monkeypatch.setattr("harness.diagnosis.smaller.DENSE_ELEMENTS", 2**13)

    def change(inputs: Inputs, result: Result) -> Tensor:
        return result.output * (2 if inputs.case.cache_len == PLAIN.case.cache_len else 1)

    found = diagnose(altered(change), PLAIN)
    assert found.names == ()
    assert found.evidence[0].startswith("not diagnosed: S=300,")
    assert "no smaller case tried fails" in found.evidence[0]
    assert any("wrong in the sequence, all heads" in line for line in found.evidence[1:])


def test_smaller_cases_are_like_the_large_one() -> None:
    """A bounded number of elements; the same mask, dtype and group, and positions inside."""
    for text in (
        "S=131072,pos=131000,H=32,Hkv=8,D=128,dtype=bf16,mask=window:4096",
        "S=1048576,pos=7/1048575,H=8,Hkv=1,probe=needle:1048575",
        "S=131072,pos=100000,Q=64,H=32,D=128,tail=poison",
    ):
        case = DecodeCase.from_text(text)
        cases = list(smaller(case))
        assert 2 <= len(cases) <= 3
        assert not fits_dense_model(case)
        assert all(map(fits_dense_model, cases))
        assert {c.replace(probe="none").mask for c in cases} == {case.mask}
        assert {(c.dtype, c.q_len, c.tail) for c in cases} == {(case.dtype, case.q_len, case.tail)}
        assert cases[0].heads == case.heads // case.kv_heads
        assert (cases[-1].heads, cases[-1].batch) == (case.heads, case.batch)
