"""Types of a case's fields: how a value is read from text, written as text, and checked.

``parse`` takes text from a case id, ``format`` is its inverse, and ``check`` validates a value
that came from Python or JSON and returns it in canonical form. ``parse`` and ``check`` raise
``FieldError``, which says what is allowed; the caller adds the field's name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.support.text import not_one_of


class FieldError(ValueError):
    """A value that its field does not allow; the message says what the field allows."""


class FieldType(ABC):
    """The type of a field: which values it takes, and how they are written as text."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """The value in canonical form.

        Raises:
            FieldError: for a value that the field does not allow.
        """

    @abstractmethod
    def parse(self, text: str) -> Any:
        """The value that ``text`` stands for, checked.

        Raises:
            FieldError: for text that stands for no value that the field allows.
        """

    def format(self, value: Any) -> str:
        """The text of a checked value."""
        return str(value)


def _int(text: str) -> Any:
    # int() would also take "1_000", " 7" and other scripts' digits, but a case has only one id.
    # Such text stays text, which check() then rejects.
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else text


@dataclass(frozen=True)
class Integer(FieldType):
    """A whole number in ``low..high``."""

    low: int
    high: int | None = None

    def check(self, value: Any) -> int:
        if type(value) is int and value >= self.low and (self.high is None or value <= self.high):
            return value
        allowed = f">= {self.low}" if self.high is None else f"{self.low} to {self.high}"
        raise FieldError(f"{value!r} is not a whole number {allowed}")

    def parse(self, text: str) -> int:
        return self.check(_int(text))


@dataclass(frozen=True)
class OptionalNumber(FieldType):
    """A finite number above 0, or None."""

    def check(self, value: Any) -> float | None:
        if value is None:
            return None
        if type(value) in (int, float) and math.isfinite(value) and value > 0:
            return float(value)
        raise FieldError(f"{value!r} is not a finite number > 0")

    def parse(self, text: str) -> float | None:
        try:
            return self.check(float(text))
        except ValueError:
            raise FieldError(f"{text!r} is not a finite number > 0") from None

    def format(self, value: Any) -> str:
        return repr(value)


@dataclass(frozen=True)
class Integers(FieldType):
    """Whole numbers >= ``low``, joined by ``/``; empty text is the empty list."""

    low: int

    def check(self, value: Any) -> tuple[int, ...]:
        if not isinstance(value, tuple):
            raise FieldError(f"{value!r} is not a list of whole numbers")
        return tuple(Integer(self.low).check(item) for item in value)

    def parse(self, text: str) -> tuple[int, ...]:
        return self.check(tuple(map(_int, text.split("/"))) if text else ())

    def format(self, value: Any) -> str:
        return "/".join(map(str, value))


@dataclass(frozen=True)
class Pair(FieldType):
    """Two whole numbers joined by ``/``; a single one stands for both."""

    low: int
    high: int

    def check(self, value: Any) -> tuple[int, int]:
        if not isinstance(value, tuple) or len(value) != 2:
            raise FieldError(f"{value!r} is not a pair of whole numbers")
        first, second = (Integer(self.low, self.high).check(item) for item in value)
        return first, second

    def parse(self, text: str) -> tuple[int, int]:
        items = tuple(map(_int, text.split("/")))
        return self.check(items * 2 if len(items) == 1 else items)

    def format(self, value: Any) -> str:
        return str(value[0]) if value[0] == value[1] else f"{value[0]}/{value[1]}"


@dataclass(frozen=True)
class Choice(FieldType):
    """One of a few words; ``short`` maps words to the form used in text (both are read)."""

    words: tuple[str, ...]
    short: Mapping[str, str] | None = None

    def check(self, value: Any) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        raise FieldError(not_one_of(value, self.words))

    def parse(self, text: str) -> str:
        return self.check({v: k for k, v in (self.short or {}).items()}.get(text, text))

    def format(self, value: Any) -> str:
        return (self.short or {}).get(value, value)


@dataclass(frozen=True)
class Flag(FieldType):
    """True or False; ``yes`` or ``no`` in text."""

    def check(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise FieldError(f"{value!r} is not true or false")

    def parse(self, text: str) -> bool:
        if text in ("yes", "no"):
            return text == "yes"
        raise FieldError(not_one_of(text, ("yes", "no")))

    def format(self, value: Any) -> str:
        return "yes" if value else "no"


@dataclass(frozen=True)
class Spec(FieldType):
    """A word of a table with whole-number arguments, ``word:1:2``; with ``joined``, several of
    them joined by ``+`` in the order of the table, each at most once."""

    table: Mapping[str, tuple[Integer, ...]]
    joined: bool = False

    @staticmethod
    def parse_one(text: str) -> tuple[str, tuple[int, ...]]:
        """Split text that was checked into the word and its arguments."""
        word, *arguments = text.split(":")
        return word, tuple(map(int, arguments))

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise FieldError(f"{value!r} is not text like {' '.join(self._forms())}")
        words, canonical = [], []
        for item in value.split("+") if self.joined else [value]:
            word, *arguments = item.split(":")
            if word not in self.table or len(arguments) != len(self.table[word]):
                raise FieldError(not_one_of(item, self._forms()))
            parsed = [k.parse(a) for k, a in zip(self.table[word], arguments, strict=True)]
            canonical.append(":".join([word, *map(str, parsed)]))
            words.append(word)
        order = list(self.table)
        if words != sorted(set(words), key=order.index) or ("none" in words and len(words) > 1):
            raise FieldError(f"{value!r}: each at most once, in the order {' '.join(order)}")
        return "+".join(canonical)

    def parse(self, text: str) -> str:
        return self.check(text)

    def _forms(self) -> list[str]:
        return [":".join([word, *("N" for _ in kinds)]) for word, kinds in self.table.items()]
