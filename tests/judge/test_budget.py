"""The rounding budget: sound arithmetic stays within it, unsound arithmetic does not."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.case import DTYPES, DecodeCase
from harness.case.precision import Precision
from harness.case.visible import visible_slots
from harness.inputs import Inputs, make_inputs
from harness.inputs.quantised import slack
from harness.oracle.budget import budget
from harness.oracle.error import measure
from harness.oracle.golden import golden
from harness.paths.masks import score_mod
from harness.script.oracle import budget_lines

GEOMETRIES = [
    "S=200,pos=199",
    "S=200,pos=150/3,H=4,Hkv=2,score=softcap:10",
    "S=200,pos=120,Q=4,H=2,score=alibi,mask=window:40",
    "S=64,pos=60,score=shift:-300",
    "S=64,pos=60,logits=low,probe=needle:3",
    "S=512,pos=511,logits=equal",
    "S=64,pos=60,D=3,Dv=200,logits=huge",
]
# Of a dtype's mantissa: its unit roundoff is 2 to the power of less so many.
BITS = {"float64": 53, "float32": 24, "tf32": 11, "float16": 11, "bfloat16": 8}


def naive(inputs: Inputs, rounded: str = "float32", scaled: str | None = None) -> torch.Tensor:
    """Softmax attention in float32 by the textbook, scores rounded to another dtype if asked, or
    operands, with the query scaled in that dtype before the product."""
    case = inputs.case
    group = case.heads // case.kv_heads
    key, value = (
        cache.float().repeat_interleave(group, dim=1)
        for cache in (inputs.key_cache, inputs.value_cache)
    )
    score = inputs.query.float() @ key.mT * case.softmax_scale
    if scaled is not None:
        dtype = getattr(torch, scaled)
        key, value = key.to(dtype).float(), value.to(dtype).float()
        score = (inputs.query.to(dtype) * case.softmax_scale).float() @ key.mT
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_query_that_is_scaled_in_its_dtype_needs_to_be_declared(dtype: str) -> None:
    """It is rounded once more: beyond the default budget on some case, never beyond the declared
    one, whether the inputs are of that dtype or wider."""
    undeclared = []
    for text in (*GEOMETRIES, *(f"S=200,pos=199,H=8,D={d},logits=x5" for d in (24, 64, 128))):
        for inputs_dtype, seed in itertools.product((dtype, "float32"), range(5)):
            case = DecodeCase.from_text(text).replace(dtype=inputs_dtype, seed=seed)
            if case.scale is None:
                case = case.replace(scale=0.3)
            inputs = make_inputs(case)
            output = naive(inputs, scaled=dtype)
            assert utilisation(inputs, output, Precision(operand=dtype)) <= 1
            if inputs_dtype == dtype:
                undeclared.append(utilisation(inputs, output))
    assert max(undeclared) > 1


def test_a_script_states_the_same_budget_for_scaled_queries() -> None:
    """The term is there where an operand dtype is declared, for TF32 it is not."""
    case = DecodeCase.from_text("S=9,pos=8,dtype=bf16")
    scaled, tf32, none = (
        "".join(budget_lines(case, "cpu", Precision(operand=operand), []))
        for operand in ("bfloat16", "tf32", None)
    )
    assert f"ds = ds + {2.0**-8!r} * w" in scaled
    assert tf32 == none
    wider = "".join(
        budget_lines(case.replace(dtype="float32"), "cpu", Precision(operand="bf16"), [])
    )
    assert f"ds = ds + {3 * 2.0**-8!r} * w" in wider


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


def restated(
    inputs: Inputs, precision: Precision, roundoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of harness/oracle/budget.py, each term as it stands there, over whole tensors
    ``[B, Hq, Q, S]``: the bounds of output and logsumexp. ``roundoff`` is the accumulator's."""
    case, gold = inputs.case, golden(inputs)
    group = case.heads // case.kv_heads
    query, key, value = (
        t.double().repeat_interleave(n, dim=1)
        for t, n in ((inputs.query, 1), (inputs.key_cache, group), (inputs.value_cache, group))
    )
    attended = torch.stack([visible_slots(case, b) for b in range(case.batch)])[:, None]
    # How much larger than its number a code may be.
    more = (slack(inputs, name) for name in ("key", "value"))
    more_key, more_value = (
        0.0
        if m is None
        else m.expand(*inputs.key_cache.shape[:3]).repeat_interleave(group, 1)[..., None]
        for m in more
    )
    scaling = 4 if case.quantised else 0
    w = query.abs() @ (key.abs() + more_key).mT * case.softmax_scale
    score = query @ key.mT * case.softmax_scale
    modified, b = {
        "none": (score, 0.0),
        "sink": (score, 0.0),
        "softcap:10": (10 * torch.tanh(score / 10), 40.0),
        "shift:-300": (score - 300, 300.0),
    }[case.score]
    s = modified.masked_fill(~attended, 0.0)
    empty = ~attended.any(-1).expand(s.shape[:3])
    column = inputs.column()
    logit = torch.full((case.heads,), -torch.inf) if column is None else column
    logit = logit.double().view(1, -1, 1).expand(s.shape[:3]).masked_fill(empty, -torch.inf)
    sunk = logit > -torch.inf
    highest = modified.masked_fill(~attended, -torch.inf).amax(-1).maximum(logit)
    lse = gold.logsumexp.masked_fill(empty, 0.0)
    p = torch.exp(s - lse[..., None]).masked_fill(~attended, 0.0)

    u = {name: 2.0**-bits for name, bits in BITS.items()}
    operand, weight = precision.operand or case.dtype, precision.weight or case.dtype
    converted = case.quantised is not None and precision.operand is not None
    u_operand = u[operand] if converted or u[operand] > u[case.dtype] else 0.0
    u_scaled = u[operand] if precision.operand not in (None, "tf32") else 0.0
    u_score = u[precision.score] if u[precision.score] > roundoff else 0.0
    u_weight = u[weight] if precision.weight else max(u[weight], u_operand)
    u_output = u[precision.output or case.dtype]
    tiny = {name: 2.0**-25 if name == "float16" else 2.0**-124 for name in u}
    tiny_weight = tiny[weight] * (64 if case.quantised else 1)

    size = s.abs() + b
    ds = (case.head_dim + 3 + scaling) * roundoff * w
    ds = ds + 2 * roundoff * (highest.masked_fill(empty, 0.0)[..., None] - s + size)
    ds = ds + u_score * size + 2 * u_operand * w + u_scaled * w
    p_logit = torch.exp(logit - lse)
    at = logit.masked_fill(~sunk, 0.0)
    ds_logit = 2 * roundoff * (highest.masked_fill(empty, 0.0) - at + at.abs()) + u_score * at.abs()
    mean = (p * ds).sum(-1) + p_logit * ds_logit
    n = (attended.sum(-1) + sunk).double()
    sums = (n + 4 + scaling) * roundoff
    growth = (p * torch.expm1(ds)).sum(-1) + p_logit * torch.expm1(ds_logit)
    logsumexp = torch.log1p(growth) + sums + 4 * roundoff * (lse.abs() + 1)
    column_error = u_output + logsumexp + 2 * roundoff * (lse.abs() + at.abs() + 4)
    weight_error = torch.expm1(ds + mean[..., None]) + (u_weight + u_operand + sums)[..., None]
    weight_error = weight_error + (column_error * sunk)[..., None]
    error = (p * weight_error + tiny_weight * attended) @ (value.abs() + more_value)
    error = error + u_output * gold.output.abs() + tiny[precision.output or case.dtype]
    return error.masked_fill(empty[..., None], 0.0), logsumexp.masked_fill(empty, 0.0)


@pytest.mark.parametrize("score", ["none", "softcap:10", "shift:-300", "sink"])
@pytest.mark.parametrize(
    ("precision", "tensor_cores"),
    [
        (Precision(), False),
        (Precision(), True),
        (Precision(accumulator="float16"), True),
        (Precision(score="bfloat16", weight="bfloat16"), False),
        (Precision(operand="bfloat16"), False),
        (Precision(operand="tf32", output="float16"), False),
        (Precision(weight="float16", accumulator="float64"), False),
    ],
)
def test_the_budget_is_its_formula(precision: Precision, tensor_cores: bool, score: str) -> None:
    """Stated once more, over whole tensors; the two differ by their own rounding in float64."""
    for dtype, cache in itertools.product(DTYPES, ("none", "int8-token", "e4m3-head")):
        text = f"S=40,pos=37/5/-1,Q=2,H=4,Hkv=2,D=24,Dv=8,mask=window:20,score={score},seed=1"
        inputs = make_inputs(DecodeCase.from_text(f"{text},dtype={dtype},cache={cache}"))
        found = budget(inputs, golden(inputs), precision, tensor_cores=tensor_cores)
        roundoff = 2.0 ** -BITS[str(precision.accumulator)]
        roundoff = max(roundoff, 2.0**-23) if tensor_cores else roundoff
        output, logsumexp = restated(inputs, precision, roundoff)
        # A sum's rounding, and that of exp at scores of some hundreds.
        own = (40 + 24 + 4 * 400) * 2.0**-53
        for actual, wanted in ((found.output, output), (found.logsumexp, logsumexp)):
            assert measure(actual, wanted, own * wanted).utilisation <= 1
