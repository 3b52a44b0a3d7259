"""Without a name, a diagnosis says for which numbers an output is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.diagnosis import LINE, MOST_LINES, diagnose
from harness.diagnosis.extent import numbers_in_words
from harness.inputs import Inputs
from harness.paths import Result
from harness.verdict import Problem
from tests.support.altered import altered

CASE = DecodeCase.from_text("S=300,pos=200,H=2,D=16,block=64")
When = Callable[[Inputs], Tensor | bool]


def position(inputs: Inputs) -> Tensor:
    """Of each row, ``[B, 1, Q, 1]``."""
    return inputs.input_pos.view(-1, 1, 1, 1) + torch.arange(inputs.case.q_len).view(1, 1, -1, 1)


def evidence(case: DecodeCase, when: When) -> tuple[str, ...]:
    """Of a fault without a model: half as much again where ``when`` says so."""

    def wrong(inputs: Inputs, result: Result) -> Tensor:
        return torch.where(torch.as_tensor(when(inputs)), result.output * 1.5, result.output)

    found = diagnose(altered(wrong), Problem.of(case))
    assert found.names == ()
    lines = [line for sentence in found.lines for line in textwrap.wrap(sentence, LINE)]
    assert len(lines) <= MOST_LINES
    return found.evidence


SHOWN: list[tuple[str, dict[str, object], When, str]] = [
    ("from", {}, lambda i: position(i) >= 151, "wrong at positions from 151 on"),
    (
        "far",
        {"cache_len": 2000, "input_pos": (1500,)},
        lambda i: position(i) >= 1024,
        "wrong at positions from 1024 on",
    ),
    ("up to", {"input_pos": (9,)}, lambda i: position(i) <= 77, "wrong at positions up to 77"),
    (
        "between",
        {},
        lambda i: (position(i) > 130) & (position(i) < 211),
        "wrong at positions from 131 to 210",
    ),
    (
        "multiples",
        {"input_pos": (192,)},
        lambda i: position(i) % 96 == 0,
        "wrong at positions that are multiples of 96",
    ),
    (
        "ragged",
        {"input_pos": (7, 200, -1)},
        lambda i: position(i) >= 151,
        "wrong at positions from 151 on",
    ),
    ("slots", {}, lambda i: i.case.cache_len > 257, "wrong at cache lengths from 258 on"),
    (
        "head dim",
        {"head_dim": 160},
        lambda i: i.case.head_dim > 128,
        "wrong with head dims from 129 on",
    ),
    (
        "value dims",
        {"value_dim": 64},
        lambda i: torch.arange(i.case.value_dim) % 8 == 7,
        "wrong in value dims 7 over a multiple of 8",
    ),
    (
        "two value dims",
        {},
        lambda i: torch.arange(i.case.value_dim) % 8 == 7,
        "wrong in value dims 7, 15",
    ),
    (
        "dtype",
        {"dtype": "bfloat16"},
        lambda i: i.case.dtype == "bfloat16",
        "wrong in bfloat16, right in float32 and float16",
    ),
]


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("changes", "when", "sentence"),
    [pytest.param(*shown, id=name) for name, *shown in SHOWN],
)
def test_the_numbers_with_which_it_is_wrong_are_said(
    changes: dict[str, object], when: When, sentence: str
) -> None:
    """To the number, and nothing else of that kind."""
    found = evidence(CASE.replace(**changes), when)
    assert [line for line in found if line.startswith("wrong ")] == [sentence]


def test_a_score_above_which_it_is_wrong_is_said() -> None:
    """Between two scores that were tried."""
    case = CASE.replace(logits="x5")

    def high(inputs: Inputs) -> bool:
        key = inputs.key_cache.repeat_interleave(inputs.case.heads // inputs.case.kv_heads, 1)
        score = inputs.query @ key[:, :, : inputs.case.input_pos[0] + 1].mT
        return bool(score.amax() * inputs.case.softmax_scale > 6)

    [line] = (line for line in evidence(case, high) if line.startswith("wrong where"))
    least, most = (float(word.split()[-1]) for word in line.split(", right up to"))
    assert most <= 6 < least


def test_what_is_wrong_everywhere_has_no_such_sentence() -> None:
    """Nor has what follows no rule."""
    for when in (lambda i: True, lambda i: (position(i) % 200 == 0) | (position(i) == 31)):
        assert not [line for line in evidence(CASE, when) if line.startswith("wrong ")]


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ({5}, {4, 6}, "5 alone"),
        ({5, 9}, {4}, "from 5 on"),
        ({5, 9}, {10}, "up to 9"),
        ({5, 9}, {4, 10}, "from 5 to 9"),
        ({96, 192, 288}, {1, 32, 48, 128}, "that are multiples of 96"),
        ({7, 15, 23}, {0, 8, 11, 16}, "7 over a multiple of 8"),
        ({7, 15, 23}, {0, 8, 16, 31}, ""),
        ({7, 15}, {0, 8, 11}, ""),
        ({7}, set(), ""),
        (set(), {7}, ""),
    ],
)
def test_a_rule_holds_of_all_wrong_numbers_and_of_no_right_one(
    wrong: set[int], right: set[int], words: str
) -> None:
    """Else there is none."""
    assert numbers_in_words(wrong, right) == words
