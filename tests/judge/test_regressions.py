"""A path that stays within its budget is still seen to become worse, against its record."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.case.precision import Precision
from harness.faults.model import Attention
from harness.inputs import Inputs
from harness.ledger.cases import cases
from harness.ledger.entries import Change, Ledger
from harness.ledger.measure import Unrecordable, measure_entry
from harness.paths import Path
from harness.paths.calls import Call
from harness.verdict import Problem, Verdict, judge
from tests.support.altered import altered, times
from tests.support.sound import to_tf32


def running(terms: Tensor) -> Tensor:
    """The sum over the last axis, one term after the other."""
    total = torch.zeros_like(terms[..., 0])
    for i in range(terms.size(-1)):
        total = total + terms[..., i]
    return total


def sequential_scores(a: Attention) -> Tensor:
    """q . k."""
    return running(a.query[..., None, :] * a.key[:, :, None]) * a.scale


def sequential_softmax(a: Attention, s: Tensor) -> tuple[Tensor, Tensor]:
    """The denominator."""
    s = s.masked_fill(~a.allowed, -torch.inf)
    highest = s.amax(-1, keepdim=True)
    p = torch.exp(s - highest)
    total = running(p)[..., None]
    return p / total, (highest + total.log()).squeeze(-1)


def sequential_output(a: Attention, weights: Tensor) -> Tensor:
    """p @ v."""
    return running((weights[..., None] * a.value[:, :, None]).mT)


SEQUENTIAL = dict(scores=sequential_scores, normalise=sequential_softmax, combine=sequential_output)


def rounded_product(a: Attention) -> Tensor:
    """q . k of operands rounded to TF32."""
    return to_tf32(a.query) @ to_tf32(a.key).mT * a.scale


def model(precision: Precision, **changes: object) -> Path:
    """The dense model with some arithmetic of its own."""

    def function(inputs: Inputs) -> tuple[Tensor, Tensor]:
        return Attention.of(inputs, torch.float32).but(**changes).run()

    return Path(
        "model", "", lambda i: Call(function, {"inputs": i}), flex=False, precision=precision
    )


PLAIN = [
    Problem.of(case)
    for case in cases("eager", "normal", "float32")
    if case.score == "none" and case.mask == "causal"
]


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        pytest.param(Precision(), SEQUENTIAL, id="sequential-sums"),
        pytest.param(Precision(operand="tf32"), {"scores": rounded_product}, id="tf32-products"),
    ],
)
def test_a_path_within_budget_can_still_regress(
    precision: Precision, changes: dict[str, object]
) -> None:
    """Worse arithmetic that the budget allows is seen against the record."""
    worse = model(precision, **changes)
    assert {judge(worse, problem).verdict for problem in PLAIN} == {Verdict.OK}
    before = measure_entry(model(precision), PLAIN, "normal")
    after = measure_entry(worse, PLAIN, "normal")
    assert before is not None
    assert after is not None
    ledger = Ledger({before.key: before})
    assert ledger.compare([before])[0][0] is Change.SAME
    assert ledger.compare([after])[0][0] is Change.LOOSENED


def test_a_wrong_path_is_never_recorded() -> None:
    """Its error is no tolerance."""
    with pytest.raises(Unrecordable, match="WRONG on S="):
        measure_entry(altered(times(1.01)), PLAIN, "normal")


def summed_in_bfloat16(block: int) -> Callable[[Attention, Tensor], Tensor]:
    """p @ v with a sum that is rounded after each ``block`` slots."""

    def combine(a: Attention, weights: Tensor) -> Tensor:
        total = torch.zeros(*weights.shape[:-1], a.value.size(-1))
        for p, v in zip(weights.split(block, -1), a.value.split(block, -2), strict=True):
            total = (total + p @ v).bfloat16().float()
        return total

    return combine


def test_the_share_of_exact_elements_regresses_long_before_the_budget_is_used() -> None:
    """A partial sum that is rounded once more, every 256 slots, leaves the budget's share alone."""
    plain = [Problem.of(problem.case.replace(dtype="bfloat16")) for problem in PLAIN]
    once = model(Precision(), combine=summed_in_bfloat16(2**20))
    before = measure_entry(once, plain, "normal")
    after = measure_entry(model(Precision(), combine=summed_in_bfloat16(256)), plain, "normal")
    assert before is not None
    assert after is not None
    ledger = Ledger({before.key: before})
    assert ledger.compare([after])[0][0] is Change.LOOSENED
    shares = {"exact": before.exact, "median_ulp": before.median_ulp}
    assert ledger.compare([dataclasses.replace(after, **shares)])[0][0] is Change.SAME
