"""Sums of integers, which float32 makes exactly in any order: an output that is off is WRONG."""

import dataclasses

import pytest
import torch

from harness.case import DecodeCase
from harness.inputs import Inputs
from harness.oracle.budget import Precision
from harness.paths import PATHS, Path, Result
from harness.verdict import Problem, Verdict, judge
from tests.support.altered import altered

# 16 slots in the first sequence, whose weights are 2^-4; 12 in the second, whose are not exact.
CASE = DecodeCase.from_text("S=40,pos=15/11,H=4,Hkv=2,D=16,probe=integers")


def _next(batch: int) -> Path:
    """A path with one element of a sequence one number further up."""

    def change(inputs: Inputs, result: Result) -> torch.Tensor:
        element = result.output[batch, 1, 0, 3]
        element.copy_(torch.nextafter(element, torch.tensor(torch.inf)))
        return result.output

    return altered(change)


def test_a_sum_of_integers_that_is_off_by_one_place_is_wrong() -> None:
    """Within its budget, and said where and over how many slots."""
    judgement = judge(_next(0), Problem.of(CASE))
    assert judgement.error is not None
    assert judgement.error.utilisation <= 1
    assert [finding.verdict for finding in judgement.findings] == [Verdict.WRONG]
    evidence = judgement.findings[0].evidence
    assert evidence.startswith("output at (0, 1, 0, 3) is ")
    assert evidence.endswith("integers over 16 slots")


@pytest.mark.parametrize(
    ("path", "case"),
    [
        (PATHS["full-cache"], CASE),
        (_next(1), CASE),
        (_next(0), CASE.replace(probe="none")),
        (_next(0), CASE.replace(score="shift:3")),
        (dataclasses.replace(_next(0), exact=False), CASE),
        (dataclasses.replace(_next(0), precision=Precision(output="float16")), CASE),
        (dataclasses.replace(_next(0), precision=Precision(accumulator="float16")), CASE),
    ],
)
def test_what_need_not_be_exact_is_not_asked_to_be(path: Path, case: DecodeCase) -> None:
    """A sound path is; other counts of slots, data, scores and declarations need not be."""
    assert judge(path, Problem.of(case)).verdict is Verdict.OK
