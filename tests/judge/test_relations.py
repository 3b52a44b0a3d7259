"""Golden obeys the relations between decode calls, and so, within budgets, does all that is OK."""

import dataclasses
import random

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st

from harness.case import SCORES, DecodeCase, InvalidCase
from harness.inputs import Inputs, make_inputs
from harness.strategies.paths import path_cases
from tests.support import relations
from tests.support.relations import Related

SHIFTS = SCORES["shift"].arguments["shift"].likely(1)
orders = st.integers(0, 999)
powers = st.sampled_from([-2, -1, 1, 2])


def hold(inputs: Inputs, *related: Related) -> None:
    """Check relations between a call and changed ones."""
    try:
        found = relations.violations(inputs, *related)
    except InvalidCase:
        reject()
    assert found == []


def shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


@given(case=path_cases(min_batch=1), order=orders)
def test_sequences_do_not_see_each_other(case: DecodeCase, order: int) -> None:
    """A batch can be permuted, and equals its sequences alone, ragged or not."""
    inputs = make_inputs(case)
    batch = shuffled(case.batch, order)
    hold(inputs, *(relations.take_sequences(inputs, b) for b in (batch, batch[:1])))


@given(case=path_cases(min_q_len=2), split=st.integers(0, 127), row=st.integers(0, 127))
def test_chunks_and_decode_steps_equal_one_prefill(case: DecodeCase, split: int, row: int) -> None:
    """Both chunks of any split, and any token alone, against its row of the whole chunk."""
    inputs = make_inputs(case)
    split, row = 1 + split % (case.q_len - 1), row % case.q_len
    parts = (0, split), (split, case.q_len), (row, row + 1)
    hold(inputs, *(relations.take_rows(inputs, *part) for part in parts))


@given(case=path_cases(min_q_len=2, causal=True))
def test_appending_a_token_changes_no_earlier_row(case: DecodeCase) -> None:
    """Before, the last token's slot held something else."""
    inputs = make_inputs(case)
    hold(inputs, relations.before_append(inputs))


@given(case=path_cases(), order=orders)
def test_heads_can_be_permuted_with_their_groups(case: DecodeCase, order: int) -> None:
    """Groups in another order, and query heads within each."""
    inputs = make_inputs(case)
    group = case.heads // case.kv_heads
    groups, within = shuffled(case.kv_heads, order), shuffled(group, order)
    hold(inputs, relations.take_heads(inputs, [g * group + h for g in groups for h in within]))


@given(case=path_cases(), power=powers)
def test_powers_of_four_scale_the_output_or_cancel(case: DecodeCase, power: int) -> None:
    """On values they scale the output; on queries, with their inverse as scale, they change
    nothing."""
    inputs = make_inputs(case)
    try:
        scaled = relations.scale_values(inputs, power), relations.scale_queries(inputs, power)
    except InvalidCase:
        reject()
    hold(inputs, *scaled)


@given(case=path_cases(), shift=st.sampled_from(SHIFTS))
def test_a_constant_added_to_all_scores_moves_logsumexp_alone(case: DecodeCase, shift: int) -> None:
    """Softmax does not see it, down to -300."""
    inputs = make_inputs(case)
    hold(inputs, relations.shift_scores(inputs, shift))


@pytest.mark.parametrize("text", ["S=9,pos=8,H=2,D=16", "S=9,pos=8/3,H=2,D=16,dtype=bf16"])
def test_a_broken_relation_is_seen(text: str) -> None:
    """Values that are one unit in the last place of bfloat16 off."""
    inputs = make_inputs(DecodeCase.from_text(text))
    related = relations.take_heads(inputs, [1, 0])
    moved = related.inputs.value_buffer.clone()
    moved += torch.finfo(torch.bfloat16).eps
    broken = dataclasses.replace(
        related, inputs=dataclasses.replace(related.inputs, value_buffer=moved)
    )
    assert relations.violations(inputs, related) == []
    assert relations.violations(inputs, broken) != []
