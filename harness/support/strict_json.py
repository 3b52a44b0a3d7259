"""JSON files, read strictly: what is unknown, missing or of the wrong type is named by its place.

A reader is a function from a decoded value to the value that is wanted; ``fields`` and ``list_of``
make readers of others. What a reader raises says where in the document it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], T]


class JsonError(ValueError):
    """A document that is not what it should be: ``place`` names and indices lead to the value, and
    ``reason`` says what is wrong with it."""

    def __init__(self, reason: str, *place: str | int) -> None:
        self.reason, self.place = reason, place
        where = ""
        for step in place:
            where += f"[{step}]" if isinstance(step, int) else f"{'.' if where else ''}{step}"
        super().__init__(f"{where}: {reason}" if where else reason)

    def inside(self, step: str | int) -> JsonError:
        """The same, seen from what holds the value."""
        return JsonError(self.reason, step, *self.place)


def parse(text: str) -> Any:
    """The decoded text; NaN and infinities are no JSON.

    Raises:
        JsonError: for text that is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise JsonError(f"not JSON: {error}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def read_file(file: Path, reader: Reader[T], failure: type[ValueError]) -> T:
    """What ``reader`` makes of a file.

    Raises:
        ValueError: of the type ``failure``, naming the file and the place in it.
    """
    try:
        return reader(parse(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise failure(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise failure(f"{file}: {error}") from None


def fields(
    value: Any,
    wanted: Mapping[str, Reader[Any]],
    optional: Mapping[str, Reader[Any]] | None = None,
    *,
    others: bool = False,
) -> dict[str, Any]:
    """An object's fields, each as its reader gives it; an optional one may be missing, and
    ``others`` may be there, but are left out.

    Raises:
        JsonError: for what is no object, and for an unknown, missing or wrong field.
    """
    readers = {**wanted, **(optional or {})}
    if not isinstance(value, dict):
        raise JsonError("is not a JSON object")
    found = {}
    for name in (name for name in readers if name in value):
        try:
            found[name] = readers[name](value[name])
        except JsonError as error:
            raise error.inside(name) from None
    # Last, since a field that says what the document is comes first.
    unknown = set(value) - set(readers)
    if unknown and not others:
        raise JsonError(f"unknown field {min(unknown)!r}; fields are {' '.join(readers)}")
    if missing := [name for name in wanted if name not in value]:
        raise JsonError("missing", missing[0])
    return found


def list_of(reader: Reader[T]) -> Reader[list[T]]:
    """A list of what ``reader`` reads."""

    def read(value: Any) -> list[T]:
        if not isinstance(value, list):
            raise JsonError("is not a list")
        found = []
        for index, item in enumerate(value):
            try:
                found.append(reader(item))
            except JsonError as error:
                raise error.inside(index) from None
        return found

    return read


def text(value: Any) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise JsonError(f"{value!r} is not a text")
    return value


def optional_text(value: Any) -> str | None:
    """Text, or null."""
    return None if value is None else text(value)


def any_text(value: Any) -> str:
    """Text, which may be empty."""
    return value if value == "" else text(value)


def anything(value: Any) -> Any:
    """The value as it is."""
    return value


def mapping(value: Any) -> dict[str, Any]:
    """An object with any fields."""
    if not isinstance(value, dict):
        raise JsonError("is not a JSON object")
    return value


def one_of(*words: Any) -> Reader[Any]:
    """One of these values."""

    def read(value: Any) -> Any:
        if value not in words or type(value) not in map(type, words):
            allowed = f"one of {' '.join(map(str, words))}" if len(words) > 1 else words[0]
            raise JsonError(f"{value!r} is not {allowed}")
        return value

    return read


def whole(low: int = 0) -> Reader[int]:
    """A whole number from ``low`` on."""

    def read(value: Any) -> int:
        if type(value) is not int or value < low:
            raise JsonError(f"{value!r} is not a whole number >= {low}")
        return value

    return read


def number(low: float = -math.inf, high: float = math.inf) -> Reader[float]:
    """A finite number from ``low`` to ``high``."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise JsonError(f"{value!r} is not a number from {low:g} to {high:g}")
        return float(value)

    return read
