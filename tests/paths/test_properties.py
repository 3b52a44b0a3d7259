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

from harness.case import DTYPES, SCORES, DecodeCase
from harness.case.kept import load_all
from harness.function.testing import assert_clean
from harness.paths import PATHS
from harness.strategies.paths import path_cases
from harness.verdict import Finding, Problem, Verdict, judge, relations
from tests.support import NIGHTLY, ROOT
from tests.support.drawn import SOUND, hold, problem_for, shuffled
from tests.support.eager import tracing

pytestmark = pytest.mark.usefixtures("untraced")

# The packed fixed path is the fixed path on a query of another shape: compiled, it is drawn too.
SHIFTS = SCORES["shift"].arguments["shift"].likely(1)
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

    ``shared_by_dtypes``: the profile's number of examples is that of a path, a third of it each
    dtype's; by day half of that. So all but the first test here, in which every dtype has its
    full number by night.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        if cases is None and not drawn:
            for case in KEPT:
                test = example(case=case)(test)
        test = given(case=cases if cases is not None else path_cases(), **drawn)(test)
        if shared_by_dtypes:
            shared = -(-settings().max_examples // len(DTYPES))
            test = settings(max_examples=shared if NIGHTLY else -(-shared // 2))(test)
        elif not NIGHTLY:
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


orders = st.integers(0, 999)


@every_path_and_dtype(shared_by_dtypes=True, cases=path_cases(min_batch=1), order=orders)
def test_sequences_do_not_see_each_other(
    path: str, dtype: str, case: DecodeCase, order: int
) -> None:
    """A batch can be permuted, and equals its sequences alone, ragged or not."""
    problem = problem_for(path, case, dtype=dtype)
    batch = shuffled(problem.case.batch, order)
    hold(path, problem, *(relations.take_sequences(problem.inputs, b) for b in (batch, batch[:1])))


@every_path_and_dtype(
    shared_by_dtypes=True,
    cases=path_cases(min_q_len=2),
    split=st.integers(0, 127),
    row=st.integers(0, 127),
)
def test_chunks_and_decode_steps_equal_one_prefill(
    path: str, dtype: str, case: DecodeCase, split: int, row: int
) -> None:
    """Both chunks of any split, and any token alone, against its row of the whole chunk."""
    problem = problem_for(path, case, dtype=dtype)
    q_len = problem.case.q_len
    split, row = 1 + split % (q_len - 1), row % q_len
    parts = (0, split), (split, q_len), (row, row + 1)
    hold(path, problem, *(relations.take_rows(problem.inputs, *part) for part in parts))


@every_path_and_dtype(shared_by_dtypes=True, cases=path_cases(min_q_len=2, causal=True))
def test_appending_a_token_changes_no_earlier_row(path: str, dtype: str, case: DecodeCase) -> None:
    """Before, the last token's slot held something else."""
    problem = problem_for(path, case, dtype=dtype)
    hold(path, problem, relations.before_append(problem.inputs))


@every_path_and_dtype(shared_by_dtypes=True, order=orders)
def test_heads_can_be_permuted_with_their_groups(
    path: str, dtype: str, case: DecodeCase, order: int
) -> None:
    """Groups in another order, and query heads within each."""
    problem = problem_for(path, case, dtype=dtype)
    group = problem.case.heads // problem.case.kv_heads
    within = shuffled(group, order)
    groups = shuffled(problem.case.kv_heads, order)
    heads = [g * group + h for g in groups for h in within]
    hold(path, problem, relations.take_heads(problem.inputs, heads))


@every_path_and_dtype(shared_by_dtypes=True, power=st.sampled_from([-2, -1, 1, 2]))
def test_powers_of_four_scale_the_output_or_cancel(
    path: str, dtype: str, case: DecodeCase, power: int
) -> None:
    """On values they scale the output; on queries, with their inverse as scale, they change
    nothing."""
    problem = problem_for(path, case, dtype=dtype)
    scaled = relations.scale_values, relations.scale_queries
    hold(path, problem, *(relation(problem.inputs, power) for relation in scaled))


@every_path_and_dtype(shared_by_dtypes=True, shift=st.sampled_from(SHIFTS))
def test_a_constant_added_to_all_scores_moves_logsumexp_alone(
    path: str, dtype: str, case: DecodeCase, shift: int
) -> None:
    """Softmax does not see it, down to -300."""
    problem = problem_for(path, case, dtype=dtype)
    hold(path, problem, relations.shift_scores(problem.inputs, shift))
