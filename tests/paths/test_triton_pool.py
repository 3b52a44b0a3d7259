"""torch's Triton kernels in the interpreter are right: on the compiled pool, on what the kernels
tell apart, and in one graph.

Positions and values are drawn, the same in every run; ten times as many at night.
"""

from __future__ import annotations

import pytest

from harness.case import DecodeCase
from harness.paths import PATHS
from harness.strategies.geometries import POOL
from harness.strategies.paths import decode_data, sampled_cases
from harness.verdict import judgeable
from tests.support.day import nightly, rotated_groups
from tests.support.interpreting import Interpreting, triton

pytestmark = pytest.mark.interprets
FLEX = ("full-cache", "fixed", "fixed-packed")

# Both kernels, with and without a reduction after splits; ragged and idle, chunks, groups of 1, 3,
# 4 and 8; a block table made outside (full-cache) and inside (fixed) the compiled function.
FURTHER = [
    "S=200,pos=197/60/-1,H=3,Hkv=1,D=16",
    "S=200,pos=150/-1,H=4,Hkv=1,D=16,Q=3,dtype=fp16",
    "S=200,pos=120/3,H=8,Hkv=1,D=16,dtype=bf16,score=sink",
    "S=160,pos=-1,H=2,D=16",
    "S=100,pos=20,H=4,Hkv=1,D=16,Q=40",
    "S=100,pos=60/20,H=4,Hkv=2,D=16,Q=3,qlayout=projected",
    "S=100,pos=60/20,H=2,D=16,Q=3,qlayout=tokens-inside",
    "S=200,pos=150/60,H=3,Hkv=1,D=16,block=16",
    "S=200,pos=150/60/-1,H=6,Hkv=2,D=16,dynamic=yes",
    "S=200,pos=150/60/20,H=4,Hkv=2,D=16,Q=3,dynamic=yes",
]
# What torch refuses to compile for a GPU as well, with the reason that it gives.
REFUSED = {
    "S=513,pos=0,H=4,Hkv=1,Q=16,D=17,dtype=bf16,block=32,mask=prefix:70,layout=stepped": "No",
    "S=100,pos=20,H=4,Hkv=1,D=16,Q=40": "No choices",
    "S=200,pos=150/60,H=3,Hkv=1,D=16,block=16": "must be divisible by BLOCK_M",
}


REFUSALS = {triton(text).geometry: reason for text, reason in REFUSED.items()}
# By day the packed path runs where it is least like the fixed one.
PACKED = {
    case.geometry
    for case in (
        triton("S=2048,pos=0,H=8,Hkv=2,dtype=bf16"),
        triton("S=200,pos=197/60/-1,H=3,Hkv=1,D=16"),
        triton("S=200,pos=120/3,H=8,Hkv=1,D=16,dtype=bf16,score=sink"),
    )
}


def runs(cases: list[DecodeCase]) -> list[object]:
    """Each case on each path that takes it, a third of the cases by day; so is the packed path
    where it is like the fixed one left to the night."""
    groups = [
        [
            pytest.param(
                path, case, id=f"{path}-{case}", marks=[pytest.mark.nightly] if alike else []
            )
            for path in FLEX
            if PATHS[path].refuses(case) is None and min(case.head_dim, case.value_dim) >= 16
            for alike in [path == "fixed-packed" and case.geometry not in PACKED]
        ]
        for case in cases
    ]
    return rotated_groups(groups, 3)


def drawn(path: str, geometry: DecodeCase, count: int) -> list[DecodeCase]:
    """Some cases of a geometry that a path takes."""
    cases = sampled_cases(20, str(geometry), decode_data(geometry))
    refuses = PATHS[path].refuses
    taken = [problem.case for problem in judgeable(cases) if refuses(problem.case) is None]
    return taken[-count:]


def holds(interpreting: Interpreting, path: str, case: DecodeCase) -> None:
    """OK in one graph; or refused by torch on the full cache, for the reason that it has."""
    answer = interpreting.judge(path, case)
    if path == "full-cache" and case.geometry in REFUSALS:
        assert REFUSALS[case.geometry] in answer["evidence"][0]
        return
    assert answer["verdict"] == "OK", answer
    assert answer["graphs"] == 1
    assert len(answer["kernels"]) == 1
    assert answer["logsumexp"]


# Scope "module" puts the tests of one geometry side by side: one worker compiles it once.
every_geometry = pytest.mark.parametrize(
    ("path", "geometry"), runs([c.replace(kernels="triton") for c in POOL]), scope="module"
)


@pytest.mark.parametrize("count", [1, nightly(10)])
@every_geometry
def test_a_path_is_ok_on_the_compiled_pool(
    interpreting: Interpreting, path: str, geometry: DecodeCase, count: int
) -> None:
    """Within budget; the tail, junk and a second run change no bit; idle rows 0; one graph."""
    for case in drawn(path, geometry, count):
        holds(interpreting, path, case)


@pytest.mark.rotates(3)
@pytest.mark.parametrize(("path", "case"), runs([triton(text) for text in FURTHER]))
def test_a_path_is_ok_on_what_the_kernels_tell_apart(
    interpreting: Interpreting, path: str, case: DecodeCase
) -> None:
    """Fixed paths take everything; what torch refuses on the full cache it refuses on a GPU."""
    holds(interpreting, path, case)


@pytest.mark.rotates(3)
@pytest.mark.parametrize("path", FLEX)
def test_an_interpreted_path_keeps_its_promises(interpreting: Interpreting, path: str) -> None:
    """One graph for all positions; positions and cache lengths in turn; the same call twice."""
    assert interpreting.run("promises_broken", path) == {}


def test_kernels_are_chosen_by_the_case_alone(interpreting: Interpreting) -> None:
    """Not by which sizes this process has compiled before, which dynamo remembers."""
    dynamic = triton("S=300,pos=196/59,H=2,D=32,Q=5,dynamic=yes")
    other = triton("S=100,pos=50,H=2,D=16")
    assert interpreting.judge("full-cache", other)["verdict"] == "OK"
    answer = interpreting.judge("full-cache", dynamic)
    assert answer["verdict"] == "OK", answer
    assert answer["kernels"] == ["flex_decoding 16x64 in 2 splits"]
