"""The tensors of a case."""

import itertools

import pytest
import torch

from harness.case import DTYPES, LAYOUTS, TAILS, DecodeCase
from harness.case.tails import POISON
from harness.case.visible import tail, visible_slots
from harness.inputs import Inputs, make_inputs, pieces, with_tail
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


STRIDES = {
    "contiguous": (160, 80, 4, 1),
    "bshd": (160, 4, 8, 1),
    "longer": (288, 144, 4, 1),
    "stacked": (160, 80, 4, 1),
    "expanded": (0, 80, 4, 1),
    "wider": (800, 400, 20, 1),
    "stepped": (320, 160, 8, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_its_strides(layout: str) -> None:
    """With a margin of 8 slots or numbers on each side where it is a slice."""
    case = DecodeCase.from_text(f"S=20,pos=5,B=2,H=2,D=4,layout={layout}")
    inputs = make_inputs(case)
    assert inputs.key_cache.stride() == inputs.value_cache.stride() == STRIDES[layout]
    assert inputs.clone().key_cache.stride() == STRIDES[layout]


def test_query_and_values_may_lie_otherwise_than_the_keys() -> None:
    """The same bits with other strides, in copies too; a tail goes to both caches."""
    case = DecodeCase.from_text("S=20,pos=5/12,H=4,Hkv=2,D=8,Q=3,layout=stepped,tail=poison")
    laid = case.replace(value_layout="bshd", query_layout="projected")
    plain, inputs = make_inputs(case), make_inputs(laid)
    for name in ("query", "key_cache", "value_cache"):
        assert torch.equal(getattr(plain, name), getattr(inputs, name))
    for copy in (inputs, inputs.clone(), with_tail(inputs.clone(), "poison")):
        assert copy.query.stride() == (3 * 8 * 8, 8, 8 * 8, 1)
        assert copy.key_cache.stride() == plain.key_cache.stride()
        assert copy.value_cache.stride() == (20 * 2 * 8, 8, 2 * 8, 1)


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


@pytest.mark.parametrize("layout", ["contiguous", "expanded", "stepped"])
@pytest.mark.parametrize("tail", ["nan", "inf"])
def test_slots_that_were_written_once_are_finite(tail: str, layout: str) -> None:
    """What a window has left behind, in a tail that is not finite where nobody ever wrote."""
    text = f"S=9,pos=4/-1/6,D=16,Q=2,mask=window:2,tail={tail},layout={layout}"
    inputs = make_inputs(DecodeCase.from_text(text))
    unwritten = [[8]] * 3 if layout == "expanded" else [[6, 7, 8], [*range(9)], [8]]
    for cache in (inputs.key_cache, inputs.value_cache):
        found = [[j for j in range(9) if not cache[b, 0, j].isfinite().any()] for b in range(3)]
        assert found == unwritten
        assert (cache[2, 0, :3] == POISON).all()


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


@pytest.mark.parametrize("piece", [1, 300])
@pytest.mark.parametrize(
    "shape", [(1, 1, 3, 5), (2, 3, 20, 4), (1, 2, 50, 17), (2, 1, 33, 5), (3, 2, 1, 7)]
)
def test_numbers_drawn_in_pieces_are_those_of_one_draw(
    shape: tuple[int, int, int, int], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and so is what is drawn next; every part of the cache is there once."""
    monkeypatch.setattr(pieces, "PIECE", piece)
    generator, other = (torch.Generator().manual_seed(1) for _ in range(2))
    drawn = torch.full(shape, torch.nan)
    for part, numbers in pieces.normal_pieces(shape, generator):
        assert drawn[part].isnan().all()
        drawn[part] = numbers
    assert torch.equal(drawn, torch.randn(shape, generator=other))
    assert torch.equal(generator.get_state(), other.get_state())


# Each geometry has a tail, and slots of it are attended by other sequences.
GEOMETRIES = [
    "S=40,pos=5/-1/30,H=2,D=5,Dv=3",
    "S=40,pos=7/30/22,H=4,Hkv=2,D=16,mask=window:3,score=alibi+bias:5+sink",
]
VALUES = [
    ("normal", "none"),
    ("x5", "needle:7"),
    ("low", "needle:35"),
    ("huge", "uniform"),
    ("equal", "integers"),
]


def drawn_cases() -> list[DecodeCase]:
    """Every layout with every tail, the other fields in turn."""
    return [
        DecodeCase.from_text(
            f"{GEOMETRIES[n % 2]},layout={layout},tail={tail},dtype={DTYPES[n % 3]},"
            f"logits={VALUES[n % 5][0]},probe={VALUES[n % 5][1]},seed={n}"
        )
        for n, (layout, tail) in enumerate(itertools.product(LAYOUTS, TAILS))
    ]


def assert_same_bits(a: Inputs, b: Inputs) -> None:
    for name, tensor in a.tensors.items():
        bits, others = (x.contiguous().view(torch.uint8) for x in (tensor, b.tensors[name]))
        assert torch.equal(bits, others), f"{name} of {a.case}"


def test_large_inputs_have_the_bits_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn does not depend on the size of the pieces in which it is drawn."""
    whole = [make_inputs(case) for case in drawn_cases()]
    monkeypatch.setattr(pieces, "PIECE", 100)
    for inputs in whole:
        assert_same_bits(make_inputs(inputs.case), inputs)


def test_another_tail_in_the_same_memory_has_the_bits_of_inputs_made_with_it() -> None:
    """There and back, also where keys or values of the two tails are the same numbers."""
    for case in drawn_cases():
        for name in TAILS:
            inputs = make_inputs(case)
            other = with_tail(inputs, name)
            assert other.key_buffer is inputs.key_buffer
            assert_same_bits(other, make_inputs(case.replace(tail=name)))
            assert_same_bits(with_tail(other, case.tail), make_inputs(case))
