"""Sound implementations that differ in arithmetic pass, whatever the order of their sums."""

import pytest
import torch
from hypothesis import given, settings

from harness.case import DTYPES, DecodeCase
from harness.case.precision import Precision
from harness.oracle.budget import budget
from harness.oracle.error import measure
from harness.oracle.rounding import cut
from harness.strategies.paths import fitted, path_cases, sampled_cases
from harness.verdict import Problem, judge
from harness.verdict.precision import count
from tests.false_alarms import Tally, tally
from tests.support.sound import SOUND, to_tf32

# One example is a verdict on every implementation, so the profile's examples are shared by them.
EXAMPLES = -(-settings().max_examples // len(SOUND))


@settings(max_examples=EXAMPLES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SOUND)
@given(case=path_cases())
def test_a_sound_implementation_is_never_an_alarm(name: str, dtype: str, case: DecodeCase) -> None:
    """All checks of a verdict: leaks, a second run, and the budgets of output and logsumexp."""
    path = SOUND[name]
    for problem in fitted([case], path, dtype=dtype):
        judgement = judge(path, problem)
        assert judgement.verdict.passes, f"{problem.case}: {judgement.findings[0].evidence}"
        assert judgement.error is not None
        assert judgement.logsumexp_error is not None


def test_the_implementations_do_differ() -> None:
    """No two names stand for one computation: in float32 every pair differs in some bit."""
    case = DecodeCase.from_text("S=500,pos=460/77,H=4,Hkv=2,D=40")
    inputs = Problem.of(case).inputs
    outputs = {name: path(inputs).output for name, path in SOUND.items()}
    # In float32, weights rounded to the input dtype are not rounded at all.
    rounding = {"rounded-weights", "rounded-exponentials", "fast-exponentials"}
    names = [name for name in SOUND if name not in rounding]
    same = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if torch.equal(outputs[a], outputs[b])
    ]
    assert same == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_either_side_of_a_tie_is_an_exact_sum_of_integers(dtype: str) -> None:
    """An exp that is slightly off decides ties, as it does in SDPA on CPU, and nothing else."""
    text = f"S=2048,pos=2047,H=8,Hkv=2,probe=integers,dtype={dtype}"
    problem = Problem.of(DecodeCase.from_text(text))
    rounded = problem.golden.output.to(getattr(torch, dtype))
    result = SOUND["fast-exponentials"](problem.inputs).output
    tied = result != rounded
    assert tied.any() or dtype == "float16"
    assert judge(SOUND["fast-exponentials"], problem).verdict.passes


@pytest.mark.parametrize("name", ["rounded-weights", "rounded-exponentials"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_weights_need_their_declaration(name: str, dtype: str) -> None:
    """Declared as float32, rounding the weights would be an alarm: the check is not blind."""
    path = SOUND[name]
    beyond = []
    for problem in fitted(sampled_cases(30), path, dtype=dtype):
        exact = budget(problem.inputs, problem.golden, Precision(weight="float32"))
        actual = path(problem.inputs).output
        beyond.append(measure(actual, problem.golden.output, exact.output).utilisation)
    assert max(beyond) > 1


@pytest.mark.parametrize("name", ["tf32-weights", "tf32-exponentials"])
def test_tf32_products_need_their_declaration(name: str) -> None:
    """Declared as float32, TF32 operands would be an alarm."""
    problem = Problem.of(DecodeCase.from_text("S=64,pos=50,H=2,D=32"))
    exact = budget(problem.inputs, problem.golden)
    actual = SOUND[name](problem.inputs).output
    assert measure(actual, problem.golden.output, exact.output).utilisation > 1


@pytest.mark.parametrize("seed", [0, 9])
def test_tf32_weights_have_to_be_declared_beside_the_operands(seed: int) -> None:
    """With query 0 the scores have no error to hide in: three weights of 1/3 and their values are
    both rounded to TF32."""
    case = DecodeCase.from_text(f"S=3,pos=2,H=4,D=1,Dv=256,probe=uniform,seed={seed}")
    problem = Problem.of(case)
    assert judge(SOUND["tf32-weights"], problem).verdict.passes


def test_tf32_keeps_ten_bits_and_finite_values_finite() -> None:
    """1 + 2^-10 is a TF32 number, half a step rounds away from 1, the largest float32 stays."""
    largest = torch.finfo(torch.float32).max
    values = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -largest, 0.0])
    expected = torch.tensor([1 + 2**-10, 1 + 2**-10, 1.0, -(2 - 2**-10) * 2.0**127, 0.0])
    assert torch.equal(to_tf32(values), expected)


def test_the_tally_counts_verdicts_and_keeps_the_worst_case() -> None:
    """As many as asked for, rounded up to whole problems, and every implementation among them."""
    found = tally(len(SOUND) + 1)
    assert found.verdicts == 2 * len(SOUND)
    assert found.alarms == []
    assert {name for name, _ in found.worst} == set(SOUND)


def test_the_tally_asks_for_precision() -> None:
    """An output cut off at bfloat16 is within its budget, and an alarm; rounded, it is none."""
    problem = Problem.of(DecodeCase.from_text("S=200,pos=180,B=8,H=32,D=32,dtype=bf16"))
    golden, found = problem.golden.output, Tally()
    for name, output in {"rounded": golden.bfloat16(), "cut": cut(golden, "bfloat16")}.items():
        found.ask({name: count(problem, output, Precision())})
    assert found.asked == 4
    assert {text.partition(":")[0] for text in found.called_imprecise} == {"cut"}
