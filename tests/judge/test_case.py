"""DecodeCase: text, JSON, validation."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import DTYPES, LAYOUTS, TAILS, CaseError, DecodeCase


@st.composite
def any_case(draw: st.DrawFn) -> DecodeCase:
    """A valid case with every field drawn on its own."""
    cache_len = draw(st.integers(1, 2**20))
    q_len = draw(st.integers(1, min(cache_len, 128)))
    kv_heads = draw(st.integers(1, 8))
    mode = draw(st.sampled_from(["eager", "compiled", "reduce-overhead"]))
    word = st.integers(1, cache_len).map(str)
    mask = draw(
        st.one_of(
            st.just("causal"),
            word.map("window:{}".format),
            st.tuples(word, word).map(":".join).map("sinks:{}".format),
            word.map("prefix:{}".format),
            word.map("document:{}".format),
        )
    )
    score = draw(st.sets(st.sampled_from(["softcap:20", "alibi", "bias:8", "shift:-300"])))
    order = ["softcap:20", "alibi", "bias:8", "shift:-300"]
    return DecodeCase(
        cache_len=cache_len,
        input_pos=tuple(draw(st.lists(st.integers(-1, cache_len - q_len), max_size=4))),
        heads=kv_heads * draw(st.integers(1, 8)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 256)),
        value_dim=draw(st.integers(1, 256)),
        q_len=q_len,
        dtype=draw(st.sampled_from(DTYPES)),
        block_size=draw(st.tuples(st.integers(1, 256), st.integers(1, 256))),
        mask=mask,
        score="+".join(sorted(score, key=order.index)) or "none",
        scale=draw(st.none() | st.floats(1e-6, 1e6)),
        layout=draw(st.sampled_from([name for name in LAYOUTS if name != "expanded"])),
        views=draw(st.sampled_from(["outside", "inside"])),
        recipe=draw(st.sampled_from(["fresh", "row", "kv-blocks"])),
        mode=mode,
        dynamic=draw(st.booleans()) and mode != "eager",
        tail=draw(st.sampled_from(list(TAILS))),
        logits=draw(st.sampled_from(["normal", "x5", "low", "huge", "equal"])),
        probe=draw(
            st.sampled_from(["none", "uniform", "integers"])
            | st.integers(0, cache_len - 1).map("needle:{}".format)
        ),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@given(case=any_case())
def test_a_case_survives_its_text_and_its_json(case: DecodeCase) -> None:
    """Reading back what was written gives the same case, and one canonical text."""
    assert DecodeCase.from_text(str(case)) == case
    assert str(DecodeCase.from_text(str(case))) == str(case)
    assert DecodeCase.from_json(case.to_json()) == case


def test_fields_at_their_default_are_left_out() -> None:
    """The printed id is the shortest one, whatever was spelt out."""
    text = "seed=0,tail=zeros,dtype=bfloat16,D=128,H=32,pos=99,S=2048,Hkv=32,scale=0.5"
    assert str(DecodeCase.from_text(text)) == "S=2048,pos=99,H=32,D=128,dtype=bf16,scale=0.5"


def test_a_shared_position_is_written_once() -> None:
    """B=4,pos=9 stands for four sequences at position 9."""
    case = DecodeCase.from_text("S=16,B=4,pos=9")
    assert case.input_pos == (9, 9, 9, 9)
    assert str(case) == "S=16,B=4,pos=9"


def test_an_empty_batch_has_a_text() -> None:
    """No sequences is a case too."""
    assert str(DecodeCase.from_text("S=16,pos=")) == "S=16,pos="


@pytest.mark.parametrize(
    ("text", "field", "allowed"),
    [
        ("pos=1", "cache_len (S)", "missing"),
        ("S=16", "input_pos (pos)", "missing"),
        ("S=0,pos=0", "cache_len (S)", "1 to 1048576"),
        ("S=1_6,pos=0", "cache_len (S)", "whole number"),
        ("S=16,pos=16", "input_pos (pos)", "0 to S - Q = 15"),
        ("S=16,pos=15,Q=2", "input_pos (pos)", "0 to S - Q = 14"),
        ("S=16,pos=-2", "input_pos (pos)", ">= -1"),
        ("S=16,pos=1/x", "input_pos (pos)", "whole number"),
        ("S=16,pos=1,Q=17", "q_len (Q)", "exceeds cache_len"),
        ("S=16,pos=1/2,B=3", "batch (B)", "2 positions"),
        ("S=16,pos=1,S=17", "cache_len (S)", "twice"),
        ("S=16,pos=1,dtype=f8", "dtype (dtype)", "float32 bfloat16 float16"),
        ("S=16,pos=1,H=6,Hkv=4", "kv_heads (Hkv)", "divide"),
        ("S=16,pos=1,Hkv=0", "kv_heads (Hkv)", "1 to 1024"),
        ("S=16,pos=1,mask=window", "mask (mask)", "window:N"),
        ("S=16,pos=1,mask=window:0", "mask (mask)", ">= 1"),
        ("S=16,pos=1,mask=prefix:17", "mask", "exceeds cache_len"),
        ("S=16,pos=1,score=alibi+softcap:2", "score (score)", "in the order"),
        ("S=16,pos=1,scale=nan", "scale (scale)", "finite"),
        ("S=16,pos=1,scale=-1", "scale (scale)", "> 0"),
        ("S=16,pos=1,block=8/8/8", "block_size (block)", "pair"),
        ("S=16,pos=1,dynamic=yes", "dynamic", "mode=compiled"),
        ("S=16,pos=1,dynamic=1", "dynamic (dynamic)", "yes no"),
        ("S=16,pos=1,probe=needle:16", "probe", "below cache_len"),
        ("S=16,pos=,layout=expanded", "layout", "at least one sequence"),
        ("S=16,pos=3,vlayout=expanded", "vlayout", "cannot go with layout=contiguous"),
        ("S=16,pos=1,colour=red", "key 'colour'", "is not one of B S pos"),
        ("S=16,pos", "'pos' is not key=value", "keys are B S pos"),
        ("", "'' is not key=value", "keys are B S pos"),
    ],
)
def test_bad_text_names_the_field_and_what_is_allowed(text: str, field: str, allowed: str) -> None:
    """Every error says where and what instead."""
    with pytest.raises(CaseError) as caught:
        DecodeCase.from_text(text)
    assert field in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"cache_len": 16}', "input_pos (pos): missing"),
        ('{"cache_len": 16, "input_pos": [1], "colour": 1}', "unknown field 'colour'"),
        ('{"cache_len": 16.0, "input_pos": [1]}', "cache_len (S): 16.0"),
        ('{"cache_len": true, "input_pos": [1]}', "cache_len (S): True"),
        ('{"cache_len": 16, "input_pos": "9"}', "input_pos (pos): '9'"),
        ('{"cache_len": 16, "input_pos": [1], "dynamic": 1}', "dynamic (dynamic): 1"),
        ('{"cache_len": 16, "input_pos": [1], "mask": 3}', "mask (mask): 3"),
        ('{"cache_len": 16, "input_pos": [1], "block_size": 3}', "block_size (block): 3"),
    ],
)
def test_bad_json_names_the_field(text: str, message: str) -> None:
    """Strict loading: wrong types and unknown fields are refused, nothing is guessed."""
    with pytest.raises(CaseError) as caught:
        DecodeCase.from_json(text)
    assert message in str(caught.value)


def test_geometry_leaves_out_positions_and_values() -> None:
    """Cases that differ in data alone share a compiled kernel; others do not."""
    case = DecodeCase.from_text("S=64,pos=3/5")
    assert case.replace(input_pos=(-1, 9), seed=1, tail="max").geometry == case.geometry
    assert case.replace(input_pos=(3, 5, 7)).geometry != case.geometry
    assert case.replace(cache_len=65).geometry != case.geometry


def test_kernels_are_part_of_the_geometry_and_need_a_compiled_case() -> None:
    """A C++ kernel is never taken for a Triton one; a file without the field means C++."""
    case = DecodeCase.from_text("S=8,pos=7,mode=compiled")
    assert case.kernels == "cpp"
    assert case.geometry != case.replace(kernels="triton").geometry
    assert str(case.replace(kernels="triton")) == "S=8,pos=7,mode=compiled,kernels=triton"
    old = json.loads(case.to_json())
    del old["kernels"]
    assert DecodeCase.from_json(json.dumps(old)) == case
    for mode in ("eager", "reduce-overhead"):
        with pytest.raises(CaseError, match="kernels: triton needs mode=compiled"):
            case.replace(kernels="triton", mode=mode)
