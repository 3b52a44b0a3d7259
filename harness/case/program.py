"""Program: what a serving loop asks of one cache object, step by step, described by plain values.

Its text is the geometry as a case id, with ``pos=0`` since all sequences start empty, and then a
word for each step, with blanks between them::

    S=160,pos=0,B=2,D=16 admit:0:3 admit:1:129 rollback:0/2 decode:1

A page size stands before the steps, as ``page:16``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from harness.case.decode_case import MAX_CACHE_LEN, DecodeCase
from harness.case.errors import CaseError
from harness.case.fields import FieldError, FieldType, Integer, Integers
from harness.case.loop import Loop

_SEQUENCE = Integer(0, 4095)
_COUNTS = Integers(0)
MAX_PAGE = 4096


@dataclass(frozen=True)
class ActionKind:
    """One kind of step, written ``word:1:2``; its arguments have ``letters`` in help and
    ``types``. A cache takes it that has all methods in ``needs``."""

    name: str
    help: str
    letters: tuple[str, ...]
    types: tuple[FieldType, ...]
    needs: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """How the step is written, with letters for the arguments: ``admit:B:N``."""
        return ":".join([self.name, *self.letters])


ACTIONS: dict[str, ActionKind] = {
    kind.name: kind
    for kind in (
        ActionKind(
            "admit",
            "sequence B begins anew, and its first N tokens are decoded in one call; further"
            " chunks of them are steps `decode`",
            ("B", "N"),
            (_SEQUENCE, Integer(1, MAX_CACHE_LEN)),
        ),
        ActionKind(
            "decode",
            "one call with so many new tokens of each sequence; one number stands for all that"
            " are live, and 0 for an idle run",
            ("N/N/..",),
            (_COUNTS,),
        ),
        ActionKind(
            "rollback",
            "the last tokens of each sequence are taken back, so many",
            ("N/N/..",),
            (_COUNTS,),
            ("rollback",),
        ),
        ActionKind("reset", "sequence B becomes empty", ("B",), (_SEQUENCE,), ("reset",)),
        ActionKind(
            "release",
            "sequence B gives its slots back and is idle until it begins anew",
            ("B",),
            (_SEQUENCE,),
            ("release", "reset"),
        ),
        ActionKind(
            "fork",
            "sequence B becomes a copy of sequence A",
            ("A", "B"),
            (_SEQUENCE, _SEQUENCE),
            ("fork",),
        ),
        ActionKind(
            "grow", "the cache gets S slots", ("S",), (Integer(1, MAX_CACHE_LEN),), ("grow",)
        ),
    )
}


@dataclass(frozen=True)
class Action:
    """One step of a program: a ``word`` of ``ACTIONS`` and its ``arguments``, whole numbers or a
    tuple of them."""

    word: str
    arguments: tuple[int | tuple[int, ...], ...]

    @property
    def kind(self) -> ActionKind:
        """The step's entry in the table."""
        return ACTIONS[self.word]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The arguments, those of a list one after the other."""
        return tuple(
            number
            for argument in self.arguments
            for number in (argument if isinstance(argument, tuple) else (argument,))
        )

    def each(self, batch: int) -> tuple[int, ...]:
        """The numbers of a list, one for each sequence."""
        return self.numbers * batch if len(self.numbers) == 1 else self.numbers

    def lowered(self) -> Iterator[Action]:
        """The step with fewer tokens of one sequence: one, half of them, one less."""
        if self.word == "admit":
            b, count = self.numbers
            yield from (Action(self.word, (b, n)) for n in _less(count))
        elif self.word in ("decode", "rollback"):
            for i, count in enumerate(self.numbers):
                for n in _less(count):
                    yield Action(self.word, ((*self.numbers[:i], n, *self.numbers[i + 1 :]),))

    def __str__(self) -> str:
        texts = zip(self.kind.types, self.arguments, strict=True)
        return ":".join([self.word, *(kind.format(value) for kind, value in texts)])

    @classmethod
    def from_text(cls, text: str) -> Action:
        """Read what ``str(action)`` gives.

        Raises:
            CaseError: for text that is no step; the message lists the steps.
        """
        word, *arguments = text.split(":")
        kind = ACTIONS.get(word)
        if kind is None or len(arguments) != len(kind.types):
            forms = " ".join(kind.form for kind in ACTIONS.values())
            raise CaseError(f"steps: {text!r} is not one of {forms}")
        try:
            read = [t.parse(argument) for t, argument in zip(kind.types, arguments, strict=True)]
        except FieldError as error:
            raise CaseError(f"steps: {text}: {error}") from None
        return cls(word, tuple(read))


def _less(count: int) -> list[int]:
    return sorted({1, count // 2, count - 1} & {*range(1, count)})


def _refused(action: Action, why: str) -> CaseError:
    return CaseError(f"steps: {action}: {why}")


@dataclass(frozen=True)
class Lengths:
    """How many tokens each sequence holds, None where it was released, of ``slots`` for each."""

    tokens: tuple[int | None, ...]
    slots: int

    def after(self, action: Action) -> Lengths:
        """The lengths after a step.

        Raises:
            CaseError: for a step that is not possible now; the message says what is.
        """
        slots = self.slots
        if action.word == "grow":
            slots = action.numbers[0]
            if slots <= self.slots:
                raise _refused(action, f"there are {self.slots} slots already")
        moved = self._counted if action.word in ("decode", "rollback") else self._placed
        now = self.tokens if action.word == "grow" else moved(action)
        if (most := max((held or 0 for held in now), default=0)) > slots:
            raise _refused(action, f"{most} tokens do not fit into {slots} slots")
        return Lengths(now, slots)

    def _counted(self, action: Action) -> tuple[int | None, ...]:
        """After a step that adds tokens to each sequence, or takes some back."""
        sign = 1 if action.word == "decode" else -1
        now: list[int | None] = []
        for b, (count, held) in enumerate(zip(self.counts(action), self.tokens, strict=True)):
            if held is None and count:
                raise _refused(action, f"sequence {b} was released; only admit brings it back")
            if held is not None and held + sign * count < 0:
                raise _refused(action, f"sequence {b} has {held} tokens")
            now.append(None if held is None else held + sign * count)
        return tuple(now)

    def _placed(self, action: Action) -> tuple[int | None, ...]:
        """After a step that concerns one sequence, or two."""
        now, of = list(self.tokens), action.numbers[: 1 if action.word == "admit" else None]
        if max(of) >= len(now):
            raise _refused(action, f"sequences are 0 to {len(now) - 1}")
        if action.word == "fork":
            source, target = of
            if source == target or now[source] is None:
                raise _refused(action, "needs a live sequence and another one")
            now[target] = now[source]
        else:
            fresh = {"admit": action.numbers[-1], "reset": 0, "release": None}
            now[of[0]] = fresh[action.word]
        return tuple(now)

    def counts(self, action: Action) -> tuple[int, ...]:
        """How many tokens of each sequence a step adds or takes back.

        Raises:
            CaseError: for a list of another length.
        """
        batch = len(self.tokens)
        if action.word == "admit":
            b, count = action.numbers
            return tuple(count if i == b else 0 for i in range(batch))
        if len(action.numbers) == 1:
            return tuple(0 if held is None else action.numbers[0] for held in self.tokens)
        if len(action.numbers) != batch:
            raise CaseError(f"steps: {action}: needs one number, or {batch}")
        return action.numbers


@dataclass(frozen=True)
class Program:
    """Steps on one cache of the geometry of ``case``, with pages of ``page_size`` slots where the
    cache has pages.

    Raises:
        CaseError: where the sequences do not start empty, or a step is not possible when it comes.
    """

    case: DecodeCase
    steps: tuple[Action, ...] = ()
    page_size: int | None = None

    def __post_init__(self) -> None:
        if set(self.case.input_pos) != {0}:
            raise CaseError("input_pos (pos): all sequences of a program start empty, at 0")
        if self.case.q_len != 1:
            raise CaseError("q_len (Q): a program's steps say how many tokens come")
        if self.page_size is not None and not 1 <= self.page_size <= MAX_PAGE:
            raise CaseError(f"page: {self.page_size} is not 1 to {MAX_PAGE}")
        for _ in self.lengths():
            pass

    def lengths(self) -> Iterator[Lengths]:
        """The lengths before each step."""
        now = Lengths((0,) * self.case.batch, self.case.cache_len)
        for step in self.steps:
            after = now.after(step)
            yield now
            now = after

    @property
    def end(self) -> Lengths:
        """The lengths after the last step."""
        now = Lengths((0,) * self.case.batch, self.case.cache_len)
        for step in self.steps:
            now = now.after(step)
        return now

    @property
    def calls(self) -> int:
        """How many steps decode."""
        return sum(step.word in ("admit", "decode") for step in self.steps)

    def replace(self, **changes: object) -> Program:
        """A copy with the case, the steps or the page size changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def words(self) -> str:
        """The steps as text, the page size before them."""
        page = [] if self.page_size is None else [f"page:{self.page_size}"]
        return " ".join([*page, *map(str, self.steps)])

    @property
    def sentence(self) -> str:
        """The steps as a person would tell them."""
        return "; ".join(map(_told, self.steps)) or "nothing"

    def __str__(self) -> str:
        return f"{self.case} {self.words}".rstrip()

    @classmethod
    def from_text(cls, text: str) -> Program:
        """Read what ``str(program)`` gives.

        Raises:
            CaseError: for text that is no case id with steps.
        """
        case, *steps = text.split() or [""]
        page = None
        if steps and steps[0].startswith("page:"):
            try:
                page = Integer(1, MAX_PAGE).parse(steps.pop(0).removeprefix("page:"))
            except FieldError as error:
                raise CaseError(f"page: {error}") from None
        return cls(DecodeCase.from_text(case), tuple(map(Action.from_text, steps)), page)


# What a target can be run on.
Task = DecodeCase | Loop | Program


def first_case(task: Task) -> DecodeCase:
    """The case of a task's first call, or of its geometry."""
    return task if isinstance(task, DecodeCase) else task.case


def _told(action: Action) -> str:
    numbers = action.numbers
    if action.word in ("decode", "rollback"):
        return _counted(action.word, numbers)
    words = {"admit": "admit {} with {}", "fork": "fork {} to {}", "grow": "grow to {}"}
    return words.get(action.word, f"{action.word} {{}}").format(*numbers)


def _counted(word: str, counts: tuple[int, ...]) -> str:
    """A step with a count for each sequence, or one for all."""
    some = [(b, n) for b, n in enumerate(counts) if n]
    if len(set(counts)) == 1:
        usual = {("decode", 0): "run idle", ("decode", 1): "decode"}
        return usual.get((word, counts[0]), f"{word} all by {counts[0]}")
    if word == "decode" and [n for _, n in some] == [1]:
        return f"decode {some[0][0]} alone"
    return f"{word} {' and '.join(f'{b} by {n}' for b, n in some)}"
