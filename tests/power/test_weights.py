"""Without a name, a diagnosis says what the worst row attends, read off by linearity in V."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.diagnosis import Diagnosis, diagnose
from harness.faults import FAULTS
from harness.faults.mutants import MODEL, mutant
from harness.inputs import Inputs
from harness.paths import Path, Result
from harness.verdict import Problem
from tests.support.altered import altered

CASE = DecodeCase.from_text("S=40,pos=30,H=2,D=16")


def changed(change: Callable[[Inputs], Inputs]) -> Path:
    """The sound model on inputs that are changed before it gets them."""
    return dataclasses.replace(
        MODEL, name="changed", prepare=lambda inputs: MODEL.prepare(change(inputs))
    )


def said(found: Diagnosis) -> str:
    """The sentence about weights, of a fault without a name."""
    assert found.names == ()
    [line] = (line for line in found.evidence if line.startswith("weights"))
    return line


def test_a_slot_too_many_takes_the_same_part_of_all_others() -> None:
    """That is said once, not for each of them."""
    case = DecodeCase.from_text("S=64,pos=40,D=16,block=16,mask=window:9,probe=uniform")
    number = FAULTS["window-one-wide"].number
    others = [fault for fault in FAULTS.values() if fault.number != number]
    found = diagnose(mutant(FAULTS["window-one-wide"]), Problem.of(case), faults=others)
    assert said(found) == (
        "weights of sequence 0, head 0, query token 0, sum 1: attended, not visible: slot 31"
        " (0.1 for 0); all others get 0.9 times theirs"
    )


def test_a_slot_that_is_attended_twice_is_called_so() -> None:
    """It gets twice what the others get of their due."""

    def twice(inputs: Inputs, result: Result) -> Tensor:
        tensors = (inputs.query, inputs.key_cache, inputs.value_cache)
        query, key, value = (x.double() for x in tensors)
        score = query @ key.mT * inputs.case.softmax_scale
        visible = torch.arange(inputs.case.cache_len) <= inputs.input_pos.view(-1, 1, 1, 1)
        weights = score.masked_fill(~visible, -torch.inf).exp()
        weights[..., 5] *= 2
        weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ value).to(inputs.query.dtype)

    line = said(diagnose(altered(twice), Problem.of(CASE)))
    assert "attended twice: slot 5 (" in line
    assert line.endswith("; all others get 0.881 times theirs")
    assert "too much" not in line


def test_weight_that_another_sequence_gets_is_told_apart() -> None:
    """A quarter of the values of the sequence before, beside all of its own."""

    def blended(inputs: Inputs) -> Inputs:
        value = inputs.value_buffer
        return dataclasses.replace(inputs, value_buffer=value + 0.25 * value.roll(1, 0))

    found = diagnose(changed(blended), Problem.of(CASE.replace(input_pos=(30, 20, 10))))
    sequence = int(said(found).split()[3].strip(","))
    assert said(found).endswith(f"sum 1: sequence {(sequence - 1) % 3} gets 0.25")


def test_where_the_weights_are_right_the_values_are_to_blame() -> None:
    """Values without their sign, of which unit vectors have none to lose."""

    def unsigned(inputs: Inputs) -> Inputs:
        return dataclasses.replace(inputs, value_buffer=inputs.value_buffer.abs())

    found = diagnose(changed(unsigned), Problem.of(CASE))
    assert said(found).endswith("are right: what is off is the values")


def test_weights_of_half_their_due_are_one_factor() -> None:
    """All of them alike, so that no slot is named."""

    def halved(inputs: Inputs) -> Inputs:
        return dataclasses.replace(inputs, value_buffer=inputs.value_buffer / 2)

    line = said(diagnose(changed(halved), Problem.of(CASE)))
    assert line.endswith("query token 0, sum 0.5: all get 0.5 times theirs")
