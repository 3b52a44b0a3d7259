"""The rounding budget: sound arithmetic stays within it, unsound arithmetic does not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.case import DTYPES, DecodeCase
from harness.case.visible import visible_slots
from harness.inputs import Inputs, make_inputs
from harness.oracle.budget import Precision, budget
from harness.oracle.error import measure
from harness.oracle.golden import golden
from harness.paths.masks import score_mod

GEOMETRIES = [
    "S=200,pos=199",
    "S=200,pos=150/3,H=4,Hkv=2,score=softcap:10",
    "S=200,pos=120,Q=4,H=2,score=alibi,mask=window:40",
    "S=64,pos=60,score=shift:-300",
    "S=64,pos=60,logits=low,probe=needle:3",
    "S=512,pos=511,logits=equal",
    "S=64,pos=60,D=3,Dv=200,logits=huge",
]


def naive(inputs: Inputs, rounded: str = "float32") -> torch.Tensor:
    """Softmax attention in float32 by the textbook, scores rounded to another dtype if asked."""
    case = inputs.case
    group = case.heads // case.kv_heads
    key, value = (
        cache.float().repeat_interleave(group, dim=1)
        for cache in (inputs.key_cache, inputs.value_cache)
    )
    score = inputs.query.float() @ key.mT * case.softmax_scale
    score = score.to(getattr(torch, rounded)).float()
    if (mod := score_mod(inputs)) is not None:
        b, h, q, kv = (
            torch.arange(n).view([-1 if i == axis else 1 for i in range(4)])
            for axis, n in enumerate(score.shape)
        )
        score = mod(score, b, h, q, kv)
    allowed = torch.stack([visible_slots(case, b) for b in range(case.batch)])[:, None]
    weight = torch.softmax(score.masked_fill(~allowed, -torch.inf), dim=-1)
    dtype = getattr(torch, case.dtype)
    return (weight.to(dtype) @ value.to(dtype)).to(dtype)


def utilisation(inputs: Inputs, output: torch.Tensor, precision: Precision | None = None) -> float:
    gold = golden(inputs)
    return measure(output, gold.output, budget(inputs, gold, precision).output).utilisation


@pytest.mark.parametrize("text", GEOMETRIES)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES))
def test_textbook_attention_stays_within_budget(text: str, seed: int, dtype: str) -> None:
    """Rounding alone never exceeds the bound."""
    inputs = make_inputs(DecodeCase.from_text(f"{text},seed={seed},dtype={dtype}"))
    assert utilisation(inputs, naive(inputs)) <= 1


@pytest.mark.parametrize("text", GEOMETRIES)
def test_one_percent_on_the_output_exceeds_the_float32_budget(text: str) -> None:
    """A scale error far below anything a test of rtol 0.01 sees."""
    inputs = make_inputs(DecodeCase.from_text(text))
    assert utilisation(inputs, golden(inputs).output * 1.01) > 1


@pytest.mark.parametrize("text", GEOMETRIES)
def test_a_budget_is_positive_and_small(text: str) -> None:
    """It bounds every element, by less than the values that are averaged."""
    inputs = make_inputs(DecodeCase.from_text(text))
    gold = golden(inputs)
    bound = budget(inputs, gold)
    assert (bound.output > 0).all()
    assert (bound.logsumexp > 0).all()
    assert bound.output.max() < inputs.value_cache.abs().max()


def test_rounded_scores_need_to_be_declared() -> None:
    """Scores rounded to bfloat16 exceed the default budget, and fit the declared one."""
    inputs = make_inputs(DecodeCase.from_text("S=200,pos=199,H=8,logits=x5"))
    output = naive(inputs, rounded="bfloat16")
    assert utilisation(inputs, output) > 1
    assert utilisation(inputs, output, Precision(score="bfloat16")) <= 1


def test_rows_with_nothing_to_attend_have_no_budget() -> None:
    """They must be exactly 0, with logsumexp exactly -inf."""
    inputs = make_inputs(DecodeCase.from_text("S=16,pos=-1/3"))
    gold = golden(inputs)
    bound = budget(inputs, gold)
    assert bound.output[0].count_nonzero() == 0
    assert bound.logsumexp[0].count_nonzero() == 0
    assert measure(gold.logsumexp, gold.logsumexp, bound.logsumexp).utilisation == 0
    off = gold.output + 2.0**-149
    assert measure(off, gold.output, bound.output).utilisation == float("inf")


def test_an_unknown_precision_is_refused() -> None:
    """By field, with what is allowed."""
    with pytest.raises(ValueError, match="precision score: 'float8' is not one of float64"):
        Precision(score="float8")


def test_a_wider_dtype_has_a_smaller_budget() -> None:
    """float32 < float16 < bfloat16, on the same numbers."""
    sizes = []
    for dtype in ("float32", "float16", "bfloat16"):
        inputs = make_inputs(DecodeCase.from_text(f"S=64,pos=60,dtype={dtype}"))
        sizes.append(budget(inputs, golden(inputs)).output.mean().item())
    assert sizes == sorted(sizes)
