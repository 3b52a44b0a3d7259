"""Programs: their text, what is possible when, and how they are told."""

from __future__ import annotations

import pytest

from harness.case import CaseError
from harness.case.program import Lengths, Program

TEXT = (
    "S=160,B=2,pos=0,D=16 admit:0:3 admit:1:129 rollback:0/2 decode:1 fork:1:0 release:1 decode:1"
)


def test_a_program_is_read_as_it_is_written() -> None:
    """With and without pages."""
    for text in (TEXT, "S=8,pos=0,D=16 page:4 decode:3 grow:9 reset:0 decode:0", "S=1,pos=0,D=16"):
        program = Program.from_text(text)
        assert str(program) == text
        assert Program.from_text(str(program)) == program


def test_a_program_knows_how_many_tokens_each_sequence_holds() -> None:
    """Before each step, and at its end."""
    program = Program.from_text(TEXT)
    assert [now.tokens for now in program.lengths()] == [
        (0, 0),
        (3, 0),
        (3, 129),
        (3, 127),
        (4, 128),
        (128, 128),
        (128, None),
    ]
    assert program.end == Lengths((129, None), 160)
    assert program.calls == 4


def test_a_program_is_told_in_words() -> None:
    """As the issue that asked for it has them."""
    told = (
        "admit 0 with 3; admit 1 with 129; rollback 1 by 2; decode; fork 1 to 0; release 1; decode"
    )
    assert Program.from_text(TEXT).sentence == told
    other = Program.from_text(
        "S=8,B=2,pos=0 decode:2/1 decode:0/1 decode:2 reset:1 grow:9 decode:0"
    )
    assert other.sentence == (
        "decode 0 by 2 and 1 by 1; decode 1 alone; decode all by 2; reset 1; grow to 9; run idle"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not key=value"),
        ("S=8,pos=3 decode:1", "input_pos (pos): all sequences of a program start empty"),
        ("S=8,pos=0,Q=2 decode:1", "q_len (Q): a program's steps say how many tokens come"),
        ("S=8,pos=0 speak:1", "steps: 'speak:1' is not one of admit:B:N decode:N/N/.. rollback"),
        ("S=8,pos=0 decode", "steps: 'decode' is not one of"),
        ("S=8,pos=0 decode:x", "steps: decode:x: 'x' is not a whole number >= 0"),
        ("S=8,pos=0 admit:0:0", "steps: admit:0:0: 0 is not a whole number 1 to"),
        ("S=8,pos=0 page:0 decode:1", "page: 0 is not a whole number 1 to 4096"),
        ("S=8,pos=0 decode:9", "steps: decode:9: 9 tokens do not fit into 8 slots"),
        ("S=8,pos=0 decode:1/1", "steps: decode:1/1: needs one number, or 1"),
        ("S=8,pos=0 rollback:1", "steps: rollback:1: sequence 0 has 0 tokens"),
        ("S=8,pos=0 admit:1:1", "steps: admit:1:1: sequences are 0 to 0"),
        ("S=8,pos=0 reset:1", "steps: reset:1: sequences are 0 to 0"),
        ("S=8,pos=0 grow:8", "steps: grow:8: there are 8 slots already"),
        ("S=8,B=2,pos=0 fork:1:1", "steps: fork:1:1: needs a live sequence and another one"),
        ("S=8,B=2,pos=0 release:0 fork:0:1", "needs a live sequence and another one"),
        ("S=8,B=2,pos=0 release:0 decode:1/1", "sequence 0 was released; only admit brings it"),
    ],
)
def test_what_is_not_possible_is_refused_and_said(text: str, message: str) -> None:
    """The step, and what is allowed."""
    with pytest.raises(CaseError) as error:
        Program.from_text(text)
    assert message in str(error.value)
