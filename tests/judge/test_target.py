"""A user's function as a path: the calls it gets, and what it may declare."""

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.domain import Domain, outside
from harness.case.features import FEATURES, features_of
from harness.case.precision import Precision
from harness.function.load import load, target_path
from harness.function.testing import assert_decodes
from harness.inputs import make_inputs
from harness.verdict import Problem, judge
from tests.support import TARGETS
from tests.support.targets import base, off_by_one, sound

EVERYTHING = Domain(tuple(FEATURES))


def call(text: str) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What a function is called with on a case."""
    got: list[Any] = []

    def function(*tensors: Tensor, **options: Any) -> Tensor:
        got.extend([tensors, options])
        return tensors[0]

    path = target_path("", function, EVERYTHING, Precision())
    path(make_inputs(DecodeCase.from_text(text)))
    return got[0], got[1]


def test_an_option_is_there_only_where_the_case_has_it() -> None:
    """Four positional tensors; window an int, slopes float32 above 0."""
    tensors, options = call("S=9,B=2,pos=3,H=4,Hkv=2,D=16,Dv=8")
    assert options == {}
    assert [tuple(t.shape) for t in tensors] == [(2, 4, 1, 16), (2, 2, 9, 16), (2, 2, 9, 8), (2,)]
    assert tensors[3].dtype is torch.int64
    _, options = call("S=9,pos=3,H=3,D=16,mask=window:4,score=softcap:20+alibi,scale=0.5")
    slopes = options.pop("alibi_slopes")
    assert options == {"window": 4, "softcap": 20.0, "scale": 0.5}
    assert slopes.dtype is torch.float32
    assert slopes.shape == (3,)
    assert (slopes > 0).all()


@pytest.mark.parametrize("layout", ["bshd", "longer", "stacked", "stepped", "expanded"])
def test_strided_caches_have_stride_1_over_the_head_dim(layout: str) -> None:
    """The query is contiguous, whatever the caches are."""
    (query, key, value, _), _ = call(f"S=9,B=3,pos=3,H=2,D=16,layout={layout}")
    assert query.is_contiguous()
    assert not key.is_contiguous() or key.storage_offset()
    assert key.stride(-1) == value.stride(-1) == 1


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("S=9,B=4,pos=3,D=16", ""),
        ("S=9,pos=3/4,D=16", "ragged"),
        ("S=9,B=2,pos=-1,D=16", "idle"),
        ("S=9,pos=3/-1,D=16", "ragged idle"),
        ("S=9,pos=3,H=4,Hkv=2,D=16,Q=2", "gqa chunk"),
        ("S=9,pos=3,D=16,Dv=8,tail=inf,scale=1.0", "scale value_dim nonfinite_tail"),
        ("S=9,pos=3,D=16,layout=bshd,score=alibi,mask=window:2", "window alibi strided"),
        ("S=9,pos=3,D=16,score=sink,mask=sinks:2:1", "sinks sink"),
        ("S=9,pos=3,D=16,mask=prefix:4", "prefix"),
        ("S=9,pos=3,D=16,mask=dilated:8:2", "dilated"),
    ],
)
def test_a_case_needs_the_features_that_it_has(text: str, features: str) -> None:
    """With exactly these declared it is taken; with any of them missing it is refused."""
    case = DecodeCase.from_text(text)
    assert features_of(case) == tuple(features.split())
    assert Domain(features_of(case)).refuses(case) is None
    for missing in features.split():
        reason = Domain(tuple(set(features.split()) - {missing})).refuses(case)
        assert reason == f"needs {missing}: not in supports"


@pytest.mark.parametrize(
    "text",
    [
        "S=9,B=17,pos=3",
        "S=200,pos=3,Q=129",
        "S=9,pos=3,mask=document:2",
        "S=9,pos=3,score=bias:3",
        "S=9,pos=3,score=alibi+shift:1",
        "S=9,pos=3,layout=wider",
        "S=9,pos=3,recipe=row",
        "S=9,pos=3,views=inside,layout=bshd",
    ],
)
def test_what_the_signature_cannot_say_is_refused(text: str) -> None:
    """Whatever is declared."""
    case = DecodeCase.from_text(text)
    assert outside(case) is not None
    assert EVERYTHING.refuses(case) == outside(case)


def test_a_declared_precision_widens_the_budget() -> None:
    """Scores in bfloat16 are WRONG for those who promise float32."""

    def rounded(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        scores = (q @ k.mT * q.size(3) ** -0.5).bfloat16().float()
        future = torch.arange(k.size(2)) > p[:, None, None, None]
        return torch.softmax(scores.masked_fill(future, -torch.inf), -1) @ v

    problem = Problem.of(DecodeCase.from_text("S=40,B=2,pos=30,H=4,D=64,logits=x5"))
    domain = Domain(head_dims=(64,))
    narrow = target_path("", rounded, domain, Precision(score="bf16"))
    assert judge(target_path("", rounded, domain, Precision()), problem).verdict == "WRONG"
    assert judge(narrow, problem).verdict == "OK"


def test_a_function_in_a_class_of_a_package_is_found() -> None:
    """package.module:Class.method, and by file."""
    assert load("harness.case.domain:Domain.refuses") is Domain.refuses
    found = load(f"{TARGETS}:base")
    assert found.__doc__ == base.__doc__


def test_assert_decodes_says_what_where_and_how_to_see_it_again() -> None:
    """Silent on a sound function; the repro declares the features that the case needs."""
    case = DecodeCase.from_text("S=9,pos=3/4,D=16")
    assert_decodes(sound, case)
    with pytest.raises(AssertionError) as caught:
        assert_decodes(off_by_one, case)
    text = str(caught.value)
    assert text.startswith("off_by_one is WRONG")
    assert f"--case {case}" in text
    assert "--supports ragged" in text
    with pytest.raises(ValueError, match="layout=wider"):
        assert_decodes(sound, case.replace(layout="wider"))
