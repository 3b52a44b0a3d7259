"""Loop: decode calls in one process on the same tensors, described by plain values alone.

Its text is the case of the first call and then a word for each step, with blanks between them::

    S=8,pos=3,D=16 next next back:2 move run:1000

Each step changes the tensors as its entry in ``STEPS`` says, and is followed by a call. Loops that
follow each other in one process are joined by ``;``. A loop without steps is one case, judged as it
is judged by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from harness.case.decode_case import MAX_CACHE_LEN, DecodeCase
from harness.case.errors import CaseError
from harness.case.fields import FieldError, Integer, Spec


@dataclass(frozen=True)
class StepKind:
    """One kind of step, written ``word:1:2``. Its arguments have ``letters`` in help and ``types``;
    ``calls`` gives the number of calls from them."""

    name: str
    help: str
    letters: str = ""
    types: tuple[Integer, ...] = ()
    calls: Callable[..., int] = lambda *arguments: 1

    @property
    def form(self) -> str:
        """How the step is written, with letters for the arguments: ``back:N``."""
        return ":".join([self.name, *self.letters])


MAX_CALLS = 2**20
STEPS: dict[str, StepKind] = {
    kind.name: kind
    for kind in (
        StepKind("again", "the same tensors, unchanged"),
        StepKind(
            "next",
            "the next token: written into the same caches, the positions advanced in the same"
            " tensor, a new query; from the end of the cache it goes on at slot 0",
        ),
        StepKind(
            "back",
            "the positions go back N slots in the same tensor, other tokens are written there",
            "N",
            (Integer(1, MAX_CACHE_LEN),),
        ),
        StepKind(
            "jump",
            "the positions become P in the same tensor, and nothing else changes",
            "P",
            (Integer(0, MAX_CACHE_LEN),),
        ),
        StepKind("query", "the query gets other numbers in the same tensor"),
        StepKind("replace", "the caches get other tokens in the same tensors"),
        StepKind("free", "the caches are freed, and others allocated, which hold other tokens"),
        StepKind(
            "move",
            "every tensor is copied to another address, and its old memory filled with other"
            " numbers",
        ),
        StepKind(
            "other",
            "another cache, of B sequences and S slots, with a query and positions at its end",
            "BS",
            (Integer(1, 4096), Integer(1, MAX_CACHE_LEN)),
        ),
        StepKind("swap", "back to the cache that was used before this one, as it was"),
        StepKind(
            "run",
            "N calls that advance token by token and return to where they began every few",
            "N",
            (Integer(1, MAX_CALLS),),
            lambda count: count,
        ),
        StepKind(
            "fresh",
            "the same with every tensor freed and allocated again for each call",
            "N",
            (Integer(1, MAX_CALLS),),
            lambda count: count,
        ),
    )
}
_TYPE = Spec({name: kind.types for name, kind in STEPS.items()})


@dataclass(frozen=True)
class Step:
    """One step of a loop: a ``word`` of ``STEPS`` and its whole-number ``arguments``."""

    word: str
    arguments: tuple[int, ...] = ()

    @property
    def kind(self) -> StepKind:
        """The step's entry in the table."""
        return STEPS[self.word]

    @property
    def calls(self) -> int:
        """How many calls the step makes."""
        return self.kind.calls(*self.arguments)

    def __str__(self) -> str:
        return ":".join([self.word, *map(str, self.arguments)])

    @classmethod
    def from_text(cls, text: str) -> Step:
        """Read what ``str(step)`` gives.

        Raises:
            CaseError: for text that is no step; the message lists the steps.
        """
        try:
            return cls(*Spec.parse_one(_TYPE.parse(text)))
        except FieldError as error:
            if text.partition(":")[0] in STEPS:
                raise CaseError(f"calls: {text}: {error}") from None
            forms = " ".join(kind.form for kind in STEPS.values())
            raise CaseError(f"calls: {text!r} is not one of {forms}") from None


@dataclass(frozen=True)
class Loop:
    """The call of ``case``, and then a call after each of the ``steps``, on the same tensors.

    Raises:
        CaseError: where the sequences share their storage, so that no token can be written into one
            of them alone, or where no query may be in the cache that a step asks for.
    """

    case: DecodeCase
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if not self.steps:
            return
        if self.case.quantised:
            raise CaseError(f"calls: cache={self.case.cache} is not written token by token")
        if self.case.layout_kind.shared:
            raise CaseError(f"calls: layout={self.case.layout} shares the storage of sequences")
        for step in self.steps:
            if step.word == "other":
                self.other_case(*step.arguments)

    @property
    def calls(self) -> int:
        """How many calls the loop makes."""
        return 1 + sum(step.calls for step in self.steps)

    def other_case(self, batch: int, cache_len: int) -> DecodeCase:
        """The case of another cache, whose sequences all are at its end.

        Raises:
            CaseError: where the case is impossible in so many slots.
        """
        position = max(0, cache_len - self.case.q_len)
        return self.case.replace(
            input_pos=(position,) * batch, cache_len=cache_len, probe="none", logits="normal"
        )

    def replace(self, **changes: object) -> Loop:
        """A copy with the case or the steps changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return " ".join(map(str, (self.case, *self.steps)))

    @classmethod
    def from_text(cls, text: str) -> Loop:
        """Read what ``str(loop)`` gives.

        Raises:
            CaseError: for text that is no case id with steps.
        """
        case, *steps = text.split() or [""]
        return cls(DecodeCase.from_text(case), tuple(map(Step.from_text, steps)))


def loops_from_text(text: str) -> tuple[Loop, ...]:
    """Read loops that are joined by ``;``.

    Raises:
        CaseError: for text that holds none, or that is none.
    """
    return tuple(Loop.from_text(part) for part in text.split(";"))


def loops_as_text(loops: tuple[Loop, ...]) -> str:
    """What ``loops_from_text`` reads."""
    return "; ".join(map(str, loops))
