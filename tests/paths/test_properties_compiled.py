"""Sound paths, compiled: a pool of geometries in which every value occurs, each compiled once.

Positions and values are drawn; between two of them nothing may be compiled again.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._inductor import config as inductor_config

from harness.case import LAYOUTS, MASKS, SCORES, DecodeCase
from harness.decoding.cpp_kernels import stays_in_bounds
from harness.function.testing import assert_clean
from harness.paths import PATHS
from harness.strategies.geometries import POOL, SPLIT
from harness.strategies.paths import decode_data
from harness.verdict import judge
from harness.verdict.known_failures import split_decode
from tests.support.drawn import problem_for

COMPILED_PATHS = ("full-cache", "fixed", "fixed-packed", "sdpa-full")
RUNS = [
    pytest.param(path, geometry, id=f"{path}-{geometry}")
    for geometry in POOL
    for path in COMPILED_PATHS
    if PATHS[path].refuses(geometry) is None
]


def every_compiled(**drawn: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrize by path and geometry; the test draws the data with ``data.draw``."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        test = given(data=st.data(), **drawn)(test)
        test = pytest.mark.rotates(8)(pytest.mark.compiles(test))
        # Scope "module" puts the tests of one geometry side by side: one worker compiles it once.
        return pytest.mark.parametrize(("path", "geometry"), RUNS, scope="module")(test)

    return decorate


def drawn_problem(path: str, geometry: DecodeCase, data: st.DataObject):  # type: ignore[no-untyped-def]
    case = data.draw(decode_data(geometry), label="case")
    return problem_for(path, case)


@settings(max_examples=settings().max_examples // 3)
@every_compiled()
def test_a_compiled_path_is_ok_in_one_graph(
    path: str, geometry: DecodeCase, data: st.DataObject
) -> None:
    """Within budget; the tail, junk and a second run change no bit; idle rows 0; one graph."""
    problem = drawn_problem(path, geometry, data)
    judgement = judge(PATHS[path], problem)
    assert_clean(path, problem.case, judgement.findings)
    assert PATHS[path].graphs(geometry) == 1


def test_the_pool_holds_every_value_of_a_geometry() -> None:
    """Each mask, score_mod, layout, recipe, dtype, kind of q_len, and both CPU kernels."""
    assert {case.mask_kind.name for case in POOL} == set(MASKS)
    scores = {name for case in POOL for name in case.scores}
    # A logit without a value needs the logsumexp, which cannot be compiled on CPU.
    assert scores == {kind.name for kind in SCORES.values() if not kind.column}
    assert {case.layout for case in POOL} == set(LAYOUTS)
    assert {case.views for case in POOL} == {"inside", "outside"}
    assert {case.recipe for case in POOL} == {"fresh", "row", "kv-blocks"}
    assert {case.dtype for case in POOL} == {"float32", "bfloat16", "float16"}
    assert {case.dynamic for case in POOL} == {True, False}
    assert {min(case.q_len, 17) for case in POOL} >= {1, 3, 4, 5, 16, 17}
    assert {case.batch for case in POOL} == {1, 2, 3, 4}
    assert {split_decode(case) for case in POOL} == {True, False}
    assert [split_decode(case) for case in POOL[: len(SPLIT)]] == [True] * len(SPLIT)


@inductor_config.patch({"cpp.simdlen": 256})
def test_no_geometry_of_the_pool_is_left_out_where_vectors_are_short() -> None:
    """Whatever machine the tests run on, flexcpu-cut-tile leaves no geometry without a case."""
    sizes = [(case.head_dim, case.block_size[1], case.cache_len) for case in POOL]
    assert all(stays_in_bounds(*size) for size in sizes), sizes
