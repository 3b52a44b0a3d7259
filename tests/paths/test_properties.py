"""Every sound path agrees with float64 attention on the whole case space, eager.

Each property is one test, for each path and dtype. Hypothesis draws the case; ``fit`` puts right
what the path's contract refuses.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from harness.case import DTYPES, DecodeCase
from harness.case.kept import load_all
from harness.function.testing import assert_clean
from harness.paths import PATHS
from harness.strategies.paths import path_cases
from harness.verdict import Finding, Problem, Verdict, judge
from tests.support import ROOT
from tests.support.drawn import SOUND, problem_for
from tests.support.eager import tracing

pytestmark = pytest.mark.usefixtures("untraced")

# The packed fixed path is the fixed path on a query of another shape: compiled, it is drawn too.
KEPT = [
    kept.case
    for kept in load_all(ROOT / "fixtures" / "cases")
    if not kept.known_failure and kept.case.mode == "eager"
]


def every_path_and_dtype(
    *,
    cases: st.SearchStrategy[DecodeCase] | None = None,
    shared_by_dtypes: bool = False,
    **drawn: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Parametrize by path and dtype, draw the case, and run the kept ones first.

    A path's dtypes share the profile's number of examples; in the first test here, each has half.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        if cases is None and not drawn:
            for case in KEPT:
                test = example(case=case)(test)
        test = given(case=cases if cases is not None else path_cases(), **drawn)(test)
        if shared_by_dtypes:
            test = settings(max_examples=-(-settings().max_examples // 2 // len(DTYPES)))(test)
        else:
            test = settings(max_examples=-(-settings().max_examples // 2))(test)
        test = pytest.mark.parametrize("dtype", DTYPES)(test)
        return pytest.mark.parametrize("path", SOUND)(test)

    return decorate


def observe(case: DecodeCase) -> None:
    """Events for ``--hypothesis-show-statistics``."""
    for name in ("layout", "tail", "logits", "recipe", "dtype", "batch"):
        event(f"{name} {getattr(case, name)}")
    event(f"mask {case.mask_kind.name}")
    event("q_len 1" if case.q_len == 1 else "q_len > 1")


@every_path_and_dtype()
def test_a_path_is_ok_on_every_case(path: str, dtype: str, case: DecodeCase) -> None:
    """Output and logsumexp within the rounding budget of golden; other values in the tail, and junk
    in new memory, change no bit; inputs keep every bit."""
    problem = problem_for(path, case, dtype=dtype)
    observe(problem.case)
    assert_clean(path, problem.case, judge(PATHS[path], problem).findings)


@settings(max_examples=-(-settings().max_examples // 5))
@pytest.mark.parametrize("path", [name for name in SOUND if PATHS[name].flex])
@given(case=path_cases())
def test_tracing_changes_no_bit(path: str, case: DecodeCase) -> None:
    """The two ways to run eager flex_attention are one computation."""
    problem = problem_for(path, case)
    plain = PATHS[path](problem.inputs)
    with tracing(True):
        traced = PATHS[path](problem.inputs)
    assert torch.equal(plain.output, traced.output)
    assert plain.logsumexp is not None
    assert traced.logsumexp is not None
    assert torch.equal(plain.logsumexp, traced.logsumexp)


def _idle_rows(problem: Problem, name: str) -> list[Finding]:
    idle = torch.tensor(problem.case.input_pos) < 0
    result = PATHS[name](problem.inputs)
    found = []
    if result.output[idle].count_nonzero():
        found.append(Finding(Verdict.WRONG, "a row of an idle sequence is not 0"))
    if result.logsumexp is not None and (result.logsumexp[idle] != -torch.inf).any():
        found.append(Finding(Verdict.WRONG, "logsumexp of an idle sequence is not -inf"))
    return found


@every_path_and_dtype(shared_by_dtypes=True, cases=path_cases(idle=True))
def test_idle_rows_are_zero(path: str, dtype: str, case: DecodeCase) -> None:
    """A sequence with nothing to attend gives 0, and logsumexp -inf."""
    problem = problem_for(path, case, dtype=dtype)
    assert_clean(path, problem.case, _idle_rows(problem, path))
