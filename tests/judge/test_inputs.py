"""The tensors of a case."""

import pytest
import torch

from harness.case import LAYOUTS, TAILS, DecodeCase
from harness.case.visible import tail, visible_slots
from harness.inputs import make_inputs
from harness.paths.masks import mask_mod


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_cache(layout: str) -> None:
    """Only strides differ, and every other element of the buffer is NaN."""
    case = DecodeCase.from_text("S=20,pos=5,B=2,H=2,D=4,Dv=3")
    plain = make_inputs(case if layout != "expanded" else case.replace(layout="expanded"))
    inputs = make_inputs(case.replace(layout=layout))
    for name in ("key", "value"):
        cache = getattr(inputs, f"{name}_cache")
        buffer = getattr(inputs, f"{name}_buffer")
        assert torch.equal(cache, getattr(plain, f"{name}_cache"))
        cache.zero_()
        assert buffer.nan_to_num(nan=1.0).sum() == buffer.numel() - (buffer == 0).sum()


def test_a_tail_changes_no_slot_that_is_attended() -> None:
    """All tails share query and attended slots bit for bit, and differ elsewhere."""
    case = DecodeCase.from_text("S=20,pos=5/-1/19,H=2,mask=window:3,dtype=fp16")
    unused = tail(case)[:, None, :, None].expand(3, 2, 20, 64)
    plain = make_inputs(case)
    for name in list(TAILS)[1:]:
        other = make_inputs(case.replace(tail=name))
        assert torch.equal(plain.query, other.query)
        assert torch.equal(plain.key_cache[~unused], other.key_cache[~unused])
        assert torch.equal(plain.value_cache[~unused], other.value_cache[~unused])
        assert not torch.equal(plain.value_cache[unused], other.value_cache[unused])


def test_a_shared_cache_is_not_poisoned_where_another_sequence_attends() -> None:
    """Expanded storage: only slots beyond every sequence count as tail."""
    inputs = make_inputs(DecodeCase.from_text("S=20,pos=5/12,layout=expanded,tail=poison"))
    assert (inputs.value_cache[0, 0, :13] != 1e4).all()
    assert (inputs.value_cache[0, 0, 13:] == 1e4).all()


def test_positions_change_no_drawn_number() -> None:
    """Slot 3 holds the same key whatever position the query is at."""
    a, b = (make_inputs(DecodeCase.from_text(f"S=20,pos={p}")) for p in (5, 19))
    assert torch.equal(a.query, b.query)
    assert torch.equal(a.key_cache[:, :, :6], b.key_cache[:, :, :6])


@pytest.mark.parametrize("logits", ["normal", "low"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_needle_takes_nearly_all_the_weight(logits: str, dtype: str) -> None:
    """Its slot's probability is 1 to within float32 for every query row."""
    case = DecodeCase.from_text(
        f"S=64,pos=60,Q=3,H=4,Hkv=2,probe=needle:7,logits={logits},dtype={dtype}"
    )
    inputs = make_inputs(case)
    key = inputs.key_cache.double().repeat_interleave(2, dim=1)
    score = inputs.query.double() @ key.mT * case.softmax_scale
    p = torch.softmax(score[..., :63], dim=-1)
    assert (p[..., 7] > 1 - 2**-24).all()


MASKS = ["causal", "window:5", "sinks:5:2", "prefix:9", "document:6"]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("positions", ["0/7/17", "-1/3/12"])
def test_mask_mods_and_the_position_arithmetic_agree(mask: str, positions: str) -> None:
    """The rule is stated twice, for FlexAttention and for the oracle; they are the same rule."""
    case = DecodeCase.from_text(f"S=20,pos={positions},Q=3,mask={mask}")
    mod = mask_mod(make_inputs(case))
    b, q, kv = torch.arange(3), torch.arange(3), torch.arange(20)
    stated = mod(b[:, None, None], torch.tensor(0), q[:, None], kv)
    assert torch.equal(stated, torch.stack([visible_slots(case, i) for i in range(3)]))
