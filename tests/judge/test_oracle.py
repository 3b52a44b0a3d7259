"""Golden against independent computations."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.case import DecodeCase, InvalidCase, visible
from harness.case.precision import Precision
from harness.case.visible import tail, visible_slots
from harness.inputs import Inputs, make_inputs
from harness.oracle import golden as oracle
from harness.oracle.budget import budget
from harness.oracle.error import measure
from harness.oracle.golden import (
    Golden,
    additive_bias,
    golden,
    second_opinion,
    without_second_opinion,
)

FLOAT64 = Precision(*["float64"] * 5)
CASES = [
    "S=1,pos=0",
    "S=40,pos=0",
    "S=40,pos=39/7/-1",
    "S=40,pos=20,H=6,Hkv=2,Q=5",
    "S=40,pos=20/3,mask=window:7,D=17,Dv=5",
    "S=40,pos=30,Q=3,mask=sinks:6:2,score=alibi,H=4",
    "S=40,pos=3/0,mask=prefix:12,score=bias:8",
    "S=40,pos=33/9,mask=document:8,score=shift:-300",
    "S=40,pos=9,B=3,layout=expanded,dtype=bf16",
    "S=40,pos=39,logits=low,probe=needle:12,scale=0.5",
    "S=40,pos=",
]


def apart(a: torch.Tensor, inputs: Inputs) -> float:
    """How far float64 ``a`` is from golden, in units of what float64 rounding explains: a worst
    case each, for the two of them."""
    gold = golden(inputs)
    return measure(a, gold.output, 2 * budget(inputs, gold, FLOAT64).output).utilisation


def dense(case: DecodeCase) -> torch.Tensor:
    """Float64 softmax over all slots at once, score_mods included."""
    inputs = make_inputs(case)
    group = case.heads // case.kv_heads
    allowed = torch.stack([visible_slots(case, b) for b in range(case.batch)])[:, None]
    used = ~tail(case)[:, None, :, None]
    key, value = (
        torch.where(used, cache.double(), 0.0).repeat_interleave(group, dim=1)
        for cache in (inputs.key_cache, inputs.value_cache)
    )
    score = inputs.query.double() @ key.mT * case.softmax_scale
    if "softcap" in case.scores:
        cap = case.scores["softcap"]["softcap"]
        score = cap * torch.tanh(score / cap)
    rest = "+".join(s for s in case.score.split("+") if not s.startswith("softcap"))
    plain = make_inputs(case.replace(score=rest or "none"))
    bias = torch.stack([additive_bias(plain, b) for b in range(case.batch)])
    score = (score + bias).masked_fill(~allowed, -math.inf)
    if (column := inputs.column()) is not None:
        logit = column.double()[:, None, None].expand(*score.shape[:3], 1)
        score = torch.cat([score, logit], -1)
    p = torch.softmax(score, dim=-1)[..., : case.cache_len]
    return p.nan_to_num(0.0) @ value


@pytest.mark.parametrize("text", CASES)
def test_golden_agrees_with_float64_sdpa(text: str) -> None:
    """To within the rounding budget of float64."""
    inputs = make_inputs(DecodeCase.from_text(text))
    assert apart(second_opinion(inputs), inputs) <= 1


@pytest.mark.parametrize("text", [*CASES[:-1], "S=40,pos=9/30,score=softcap:2+alibi"])
def test_golden_agrees_with_a_dense_softmax(text: str) -> None:
    """Also where SDPA cannot express the score_mod."""
    case = DecodeCase.from_text(text)
    assert apart(dense(case), make_inputs(case)) <= 1


@pytest.mark.parametrize("text", ["S=6,pos=4,D=3,Dv=2", "S=4,pos=2,D=2,Q=2,logits=x5", "S=3,pos=0"])
def test_golden_agrees_with_fifty_digits(text: str) -> None:
    """Tiny cases by mpmath, output and logsumexp."""
    case = DecodeCase.from_text(text)
    inputs = make_inputs(case)
    result = golden(inputs)
    bound = budget(inputs, result, FLOAT64)
    with mpmath.workdps(50):
        for i in range(case.q_len):
            query = [mpmath.mpf(x) for x in inputs.query[0, 0, i].tolist()]
            keys = inputs.key_cache[0, 0, : case.input_pos[0] + i + 1].tolist()
            values = inputs.value_cache[0, 0].tolist()
            scale = 1 / mpmath.sqrt(case.head_dim)
            weights = [mpmath.exp(scale * mpmath.fdot(query, map(mpmath.mpf, key))) for key in keys]
            total = mpmath.fsum(weights)
            for d in range(case.value_dim):
                exact = mpmath.fsum(w * values[j][d] for j, w in enumerate(weights)) / total
                error = result.output[0, 0, i, d].item() - exact
                assert abs(error) <= bound.output[0, 0, i, d].item()
            error = result.logsumexp[0, 0, i].item() - mpmath.log(total)
            assert abs(error) <= bound.logsumexp[0, 0, i].item()


@pytest.mark.parametrize("text", CASES)
def test_the_oracle_never_reads_the_tail(text: str) -> None:
    """NaN in every slot that no query attends leaves golden as it is, bit for bit."""
    case = DecodeCase.from_text(text)
    plain, poisoned = (golden(make_inputs(case.replace(tail=t))) for t in ("zeros", "nan"))
    assert torch.equal(plain.output, poisoned.output)
    assert torch.equal(plain.logsumexp, poisoned.logsumexp)


@given(chunk=st.integers(1, 50), seed=st.integers(0, 99))
def test_streaming_does_not_change_golden(chunk: int, seed: int) -> None:
    """Whatever the chunk, the sums agree to float64 rounding."""
    inputs = make_inputs(DecodeCase.from_text(f"S=50,pos=49/20,H=2,logits=x5,seed={seed}"))
    whole = golden(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "MIN_CHUNK", chunk)
        patch.setattr(oracle, "CHUNK_ELEMENTS", 1)
        parts = golden(inputs)
        bound = budget(inputs, parts, FLOAT64)
    for name in ("output", "logsumexp"):
        a, b, allowed = (getattr(result, name) for result in (parts, whole, bound))
        assert measure(a, b, 2 * allowed).utilisation <= 1


@pytest.mark.parametrize("text", CASES[:-1])
def test_chunks_that_are_not_kept_give_the_same_budget(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, since they are computed again from the same tensors."""
    inputs = make_inputs(DecodeCase.from_text(text))
    kept = golden(inputs)
    monkeypatch.setattr(oracle, "KEPT_SCORES", 0)
    again = golden(inputs)
    assert kept.kept is not None
    assert again.kept is None
    for a, b in zip(*(budgets_of(inputs, gold) for gold in (kept, again)), strict=True):
        assert torch.equal(a, b)


def budgets_of(inputs: Inputs, gold: Golden) -> tuple[Tensor, Tensor]:
    bound = budget(inputs, gold)
    return bound.output, bound.logsumexp


def test_what_is_looked_at_together_changes_no_visible_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slots that a sequence attends are found a bounded number at a time."""
    cases = [DecodeCase.from_text(text) for text in CASES]
    whole = [tail(case) for case in cases]
    monkeypatch.setattr(visible, "PAIRS", 7)
    assert all(torch.equal(tail(case), rows) for case, rows in zip(cases, whole, strict=True))


def test_a_row_with_nothing_to_attend_is_zero_with_logsumexp_minus_infinity() -> None:
    """An idle sequence, beside a live one."""
    result = golden(make_inputs(DecodeCase.from_text("S=8,pos=3/-1,H=2,Q=2")))
    assert torch.equal(result.output[1], torch.zeros(2, 2, 64, dtype=torch.float64))
    assert torch.equal(result.logsumexp[1], torch.full((2, 2), -math.inf, dtype=torch.float64))
    assert result.logsumexp[0].isfinite().all()


@pytest.mark.parametrize("text", ["S=8,pos=3,scale=1e5", "S=8,pos=3,logits=huge,scale=1000"])
def test_scores_beyond_the_range_make_a_case_invalid(text: str) -> None:
    """No implementation can be held to scores of 1e4."""
    with pytest.raises(InvalidCase, match="a score reaches"):
        golden(make_inputs(DecodeCase.from_text(text)))


def test_a_second_opinion_is_refused_where_it_would_take_much_memory() -> None:
    """A million slots, as float64, with the reason."""
    case = DecodeCase.from_text("S=1048576,pos=0,H=8,Hkv=1,D=64")
    assert without_second_opinion(case) == ("1048576 slots would take float64 SDPA too much memory")
    assert without_second_opinion(case.replace(cache_len=2**17)) is None


def test_sdpa_does_not_claim_to_express_softcap() -> None:
    """The second opinion refuses what it cannot say."""
    with pytest.raises(InvalidCase, match="softcap"):
        second_opinion(make_inputs(DecodeCase.from_text("S=8,pos=3,score=softcap:5")))
