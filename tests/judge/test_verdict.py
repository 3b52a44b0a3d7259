"""Verdicts: each can occur, each says why, and sound paths get none of the bad ones."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from harness.case import DecodeCase
from harness.case.precision import Precision
from harness.inputs import Inputs
from harness.paths import PATHS, Path, Result, masks
from harness.paths.calls import Call, full_cache
from harness.script.watch import WATCHED
from harness.verdict import Problem, Verdict, judge
from tests.support.altered import altered, times

CASE = DecodeCase.from_text("S=40,pos=20/7/-1,H=4,Hkv=2,D=16")
PROBLEM = Problem.of(CASE)


def _raises(error: BaseException) -> Path:
    def function() -> None:
        raise error

    return Path("raises", "", lambda inputs: Call(function, {}))


def _nan(inputs: Inputs, result: Result) -> torch.Tensor:
    result.output[0, 1, 0, 3] = torch.nan
    return result.output


def _attends_one_tail_slot(inputs: Inputs, result: Result) -> torch.Tensor:
    result.output[1, 3, 0] += 1e-3 * inputs.value_cache[1, 1, 8]
    return result.output


def _leaves_a_row_unwritten(inputs: Inputs, result: Result) -> torch.Tensor:
    output = torch.empty_like(result.output)
    output[0] = result.output[0]
    return output


def _writes_into_the_cache(inputs: Inputs, result: Result) -> torch.Tensor:
    inputs.key_cache[0, 0, 39, 0] += 1
    return result.output


def _touches_an_idle_row(inputs: Inputs, result: Result) -> torch.Tensor:
    result.output[2, 0, 0, 0] = 2.0**-149
    return result.output


FAULTS = {
    Verdict.UNSUPPORTED: _raises(NotImplementedError("not today")),
    Verdict.MUTATED: altered(_writes_into_the_cache),
    Verdict.WRONG: altered(times(1.01)),
    Verdict.NONFINITE: altered(_nan),
    Verdict.LEAK: altered(_attends_one_tail_slot),
    Verdict.NONDETERMINISTIC: altered(_leaves_a_row_unwritten),
    Verdict.ERROR: _raises(ZeroDivisionError("by zero")),
    Verdict.OOM: _raises(torch.OutOfMemoryError("no more")),
    Verdict.OK: PATHS["full-cache"],
}


# Said of a process (test_worker.py), against the ledger, of a Triton kernel (test_sanitizer.py), or
# of several calls (test_loop.py) or many rows (test_precision.py), never by a judgement here.
SEVERAL = {Verdict.STALE, Verdict.RETAINED, Verdict.IMPRECISE}
ELSEWHERE = {Verdict.CRASH, Verdict.TIMEOUT, Verdict.REGRESSED, *WATCHED, *SEVERAL}


def test_what_leaks_is_called_a_leak_though_it_is_beyond_the_bound_too() -> None:
    """The tail is changed before anything is compared: it says why the numbers are off."""

    def leaks_and_is_off(inputs: Inputs, result: Result) -> torch.Tensor:
        return _attends_one_tail_slot(inputs, result) * 1.01

    judgement = judge(altered(leaks_and_is_off), PROBLEM)
    assert [finding.verdict for finding in judgement.findings] == [Verdict.LEAK, Verdict.WRONG]


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in ELSEWHERE])
def test_every_verdict_can_occur(verdict: Verdict) -> None:
    """A planted fault of each kind gets the verdict of that kind."""
    judgement = judge(FAULTS[verdict], PROBLEM)
    assert verdict in [verdict.OK, *(f.verdict for f in judgement.findings)]
    if verdict is not Verdict.NONDETERMINISTIC:  # junk may also lie outside of the numbers' range
        assert judgement.verdict is verdict
    assert all(finding.evidence for finding in judgement.findings)


@pytest.mark.parametrize("status", [0, 3, None])
def test_leaving_the_process_is_a_crash(status: int | None) -> None:
    """sys.exit in a path must not end the harness, whatever the status; said where."""
    judgement = judge(_raises(SystemExit(status)), PROBLEM)
    assert judgement.verdict is Verdict.CRASH
    wanted = rf"called sys.exit\({status}\) \(test_verdict.py, line \d+, in function\)"
    assert re.fullmatch(wanted, judgement.findings[0].evidence)


def test_an_error_shows_the_frame_in_the_users_own_file() -> None:
    """Not the one in torch that raised."""

    def function() -> torch.Tensor:
        return torch.nn.functional.softmax(torch.ones(2), dim=7)

    judgement = judge(Path("", "", lambda i: Call(function, {})), PROBLEM)
    line = function.__code__.co_firstlineno + 1
    assert judgement.verdict is Verdict.ERROR
    at = f" (test_verdict.py, line {line}, in function)"
    assert judgement.findings[0].evidence.endswith(at)


def _reads_its_last_buffer() -> Path:
    buffer = torch.empty(3, 4, 1, 16)
    return altered(lambda inputs, result: buffer.copy_(_attends_one_tail_slot(inputs, result)))


def test_a_buffer_that_the_next_call_overwrites_hides_nothing() -> None:
    """What was returned first is compared, not what lies there by then."""
    judgement = judge(_reads_its_last_buffer(), PROBLEM)
    assert judgement.verdict is Verdict.LEAK


def test_an_output_that_requires_a_gradient_is_wrong() -> None:
    """It would keep a graph alive at every step."""
    judgement = judge(altered(lambda i, r: r.output.clone().requires_grad_()), PROBLEM)
    assert judgement.verdict is Verdict.WRONG
    assert judgement.findings[0].evidence == "requires_grad is True, should be False"


@pytest.mark.parametrize("racing", [2, 3])
def test_a_race_is_not_called_a_leak(racing: int) -> None:
    """Whether it shows in the repeat or first in the call with another tail, which is therefore
    run twice."""
    calls: list[int] = []

    def race(inputs: Inputs, result: Result) -> torch.Tensor:
        calls.append(0)
        return result.output + (0.5 if len(calls) == racing else 0)

    judgement = judge(altered(race), PROBLEM)
    assert judgement.verdict is Verdict.NONDETERMINISTIC
    assert Verdict.LEAK not in [finding.verdict for finding in judgement.findings]


def test_a_leak_from_a_buffer_that_the_next_call_overwrites_is_a_leak() -> None:
    """What the call with another tail returned is compared, not what lies there by then."""
    judgement = judge(_reads_its_last_buffer(), PROBLEM)
    assert [f.verdict for f in judgement.findings][:1] == [Verdict.LEAK]


@pytest.mark.parametrize("operand", ["bfloat16", "float16", "tf32"])
def test_a_tail_beyond_the_declared_operands_is_left_out(operand: str) -> None:
    """float32's largest number would become inf there, which is not the path's fault."""
    path = dataclasses.replace(PATHS["full-cache"], precision=Precision(operand=operand))
    problem = Problem.of(CASE.replace(tail="max"))
    judgement = judge(path, problem)
    assert judgement.verdict is Verdict.UNSUPPORTED
    assert f"beyond the range of the declared operands, {operand}" in judgement.findings[0].evidence
    assert judge(path, Problem.of(CASE.replace(tail="poison"))).verdict is Verdict.OK
    same = Problem.of(CASE.replace(tail="max", dtype="float16"))
    assert judge(path, same).verdict is Verdict.OK


def _changes_a_setting(inputs: Inputs, result: Result) -> torch.Tensor:
    torch.set_default_dtype(torch.float64)
    return result.output


def test_a_changed_setting_is_put_back_and_named() -> None:
    """The judge's own arithmetic must not run under it."""
    judgement = judge(altered(_changes_a_setting), PROBLEM)
    assert torch.get_default_dtype() is torch.float32
    assert judgement.verdict is Verdict.MUTATED
    assert "torch.float32 to torch.float64" in judgement.findings[0].evidence


def _returns_the_newest_value(inputs: Inputs, result: Result) -> torch.Tensor:
    return inputs.value_cache[:, :, :1]


def test_an_output_that_is_a_view_of_the_cache_is_named() -> None:
    """Its numbers are right until the slot is written again; in a copy they stay right."""
    problem = Problem.of(DecodeCase.from_text("S=40,pos=0,H=2,D=16,tail=leftovers"))
    judgement = judge(altered(_returns_the_newest_value), problem)
    assert [finding.verdict for finding in judgement.findings] == [Verdict.MUTATED]
    assert "memory of its input value_buffer" in judgement.findings[0].evidence
    copied = altered(lambda inputs, result: _returns_the_newest_value(inputs, result).clone())
    assert judge(copied, problem).verdict is Verdict.OK


def test_a_failed_allocation_is_oom() -> None:
    """torch's CPU allocator raises a plain RuntimeError."""

    def function() -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)

    assert judge(Path("", "", lambda i: Call(function, {})), PROBLEM).verdict is Verdict.OOM


def test_an_idle_row_must_be_exactly_zero() -> None:
    """The smallest subnormal is too much."""
    judgement = judge(altered(_touches_an_idle_row), PROBLEM)
    assert judgement.verdict is Verdict.WRONG
    assert "(2, 0, 0, 0)" in judgement.findings[0].evidence


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (lambda i, r: r.output.double(), "dtype is torch.float64, should be torch.float32"),
        (lambda i, r: r.output[..., :8], "shape is (3, 4, 1, 8), should be (3, 4, 1, 16)"),
        (lambda i, r: None, "returned NoneType, not a tensor"),
        (lambda i, r: r.output.to("meta"), "device is meta, should be cpu"),
        (lambda i, r: Result(r.output, r.output), "logsumexp's shape is (3, 4, 1, 16)"),
    ],
)
def test_a_malformed_result_says_what_it_is_and_should_be(
    change: Callable[[Inputs, Result], object], evidence: str
) -> None:
    """Type, shape, dtype and device come before any number."""
    judgement = judge(altered(change), PROBLEM)
    assert judgement.verdict is Verdict.WRONG
    assert evidence in judgement.findings[0].evidence


def test_a_logsumexp_in_base_two_is_wrong() -> None:
    """The output is right; the auxiliary result is judged as well."""
    path = altered(lambda i, r: Result(r.output, r.logsumexp / 0.6931471805599453))
    judgement = judge(path, PROBLEM)
    assert judgement.verdict is Verdict.WRONG
    assert judgement.findings[0].evidence.startswith("logsumexp at")


def test_a_wrong_number_is_shown_with_its_place_and_bound() -> None:
    """Got, should be, allowed, and in units of the budget."""
    evidence = judge(altered(times(2)), PROBLEM).findings[0].evidence
    assert "output at (" in evidence
    assert "should be" in evidence
    assert "times the rounding budget" in evidence
    assert re.search(r"; \d+ of 192 elements are beyond theirs$", evidence)


def test_a_path_without_a_promise_for_nan_tails_is_not_held_to_one() -> None:
    """It is UNSUPPORTED, said aloud; a path that promises is LEAK or NONFINITE."""
    problem = Problem.of(CASE.replace(tail="nan"))
    path = PATHS["full-cache"]
    assert judge(path, problem).verdict is Verdict.UNSUPPORTED
    promises = Path(path.name, path.doc, path.prepare, ignores="any")
    assert judge(promises, problem).verdict is Verdict.NONFINITE


SOUND = [name for name, path in PATHS.items() if not path.known_wrong]


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize(
    "text",
    [
        "S=200,pos=150,B=2,H=4,Hkv=2,D=32,tail=poison,dtype=bf16",
        "S=200,pos=150,B=2,D=32,Q=3,mask=window:40,score=alibi+shift:-100,H=3",
        "S=200,pos=0,D=16,Dv=8,mask=prefix:30,tail=max,score=bias:9",
        "S=200,pos=199,mask=sinks:50:4,probe=needle:2,layout=bshd",
        "S=200,pos=60,dtype=fp16,mask=document:32,tail=leftovers,layout=wider,logits=low",
        "S=200,pos=150/3/-1,D=32,mask=document:50,layout=stepped",
        "S=200,pos=150/3/-1,D=32,recipe=kv-blocks,layout=stacked,block=16",
        "S=200,pos=150,recipe=row,layout=longer,block=32/64",
    ],
)
def test_sound_paths_are_ok_wherever_they_support_the_case(name: str, text: str) -> None:
    """Released torch, eager: right on all of it."""
    case = DecodeCase.from_text(text)
    judgement = judge(PATHS[name], Problem.of(case))
    assert judgement.verdict.passes, judgement.findings


def test_each_sound_path_supports_some_of_those_cases() -> None:
    """UNSUPPORTED passes, so it must not be the rule."""
    for name in SOUND:
        assert (
            judge(PATHS[name], Problem.of(DecodeCase.from_text("S=20,pos=9,H=2,Hkv=1"))).verdict
            == "OK"
        )


def test_a_path_that_writes_into_its_inputs_leaves_the_problem_to_the_others() -> None:
    """The next path is judged on the case as it was drawn."""
    before = PROBLEM.inputs.clone()
    assert judge(FAULTS[Verdict.MUTATED], PROBLEM).verdict is Verdict.MUTATED
    assert all(torch.equal(t, before.tensors[n]) for n, t in PROBLEM.inputs.tensors.items())


def test_the_runs_of_a_verdict_share_the_tables_of_a_block_mask_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made once for each verdict; what its mask_mod captures is each run's own."""
    made: list[BlockMask] = []
    used: list[BlockMask] = []

    def create(*arguments: Any, **options: Any) -> BlockMask:
        made.append(create_block_mask(*arguments, **options))
        return made[-1]

    def noted(inputs: Inputs) -> Call:
        call = full_cache(inputs)
        used.append(call.arguments["block_mask"])
        return call

    monkeypatch.setattr(masks.fresh_block_mask, "__defaults__", (create,))
    path = dataclasses.replace(PATHS["full-cache"], prepare=noted)
    for count in (1, 2):
        assert judge(path, PROBLEM).verdict is Verdict.OK
        assert len(made) == count
    assert len(used) == 6
    assert len({id(mask.kv_indices) for mask in used}) == 2
    assert len({id(mask.mask_mod) for mask in used}) == 6
