"""Strict JSON: what is written has no number that JSON does not have, and what is read raises for a
field that is unknown, missing or of the wrong type.

NaN and infinities are written as the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
``from_text`` and ``any_number`` read back.

A reader is a function from a decoded value to the value that is wanted. ``fields`` and ``list_of``
build on other readers. The JsonError that a reader raises says where in the document the value is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], T]
_SPELLED = ("NaN", "Infinity", "-Infinity")


class JsonError(ValueError):
    """A document that is not as it should be: the names and indices in ``place`` lead to the value,
    and ``reason`` says what is wrong with it."""

    def __init__(self, reason: str, *place: str | int) -> None:
        self.reason, self.place = reason, place
        where = ""
        for step in place:
            where += f"[{step}]" if isinstance(step, int) else f"{'.' if where else ''}{step}"
        super().__init__(f"{where}: {reason}" if where else reason)

    def inside(self, step: str | int) -> JsonError:
        """The same error with ``step`` before its place, as seen from the object or list around the
        value."""
        return JsonError(self.reason, step, *self.place)


def parse(text: str | bytes) -> Any:
    """Decode JSON text; NaN and infinities, which Python would take, are no JSON.

    Raises:
        JsonError: for text that is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise JsonError(f"not JSON: {error}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def to_text(document: Any, indent: int = 2) -> str:
    """A document as JSON text that ends in a newline."""
    return json.dumps(_spelled(document), indent=indent, allow_nan=False) + "\n"


def to_line(document: Any) -> str:
    """A document as JSON text on one line, without a newline."""
    return json.dumps(_spelled(document), allow_nan=False)


def from_text(text: str | bytes) -> Any:
    """What ``to_text`` or ``to_line`` was given: texts that spell a number are numbers again.

    Raises:
        JsonError: for text that is not JSON.
    """
    return _unspelled(parse(text))


def _spelled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in value]
    return value


def _unspelled(value: Any) -> Any:
    if isinstance(value, str) and value in _SPELLED:
        return float(value)
    if isinstance(value, dict):
        return {key: _unspelled(item) for key, item in value.items()}
    return [_unspelled(item) for item in value] if isinstance(value, list) else value


def read_file(file: Path, reader: Reader[T], failure: type[ValueError]) -> T:
    """Read a JSON file with ``reader``.

    Raises:
        ValueError: of the type ``failure``; the message names the file and the place in it.
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
    """The fields of a JSON object, each as its reader gives it.

    Optional fields may be missing. With ``others``, further fields may be there and are left out.

    Raises:
        JsonError: for a value that is no object, and for an unknown, missing or wrong field.
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
    # Unknown fields come last: where the field that says what the document is has a wrong value,
    # that is the error to name.
    unknown = set(value) - set(readers)
    if unknown and not others:
        raise JsonError(f"unknown field {min(unknown)!r}; fields are {' '.join(readers)}")
    if missing := [name for name in wanted if name not in value]:
        raise JsonError("missing", missing[0])
    return found


def list_of(reader: Reader[T]) -> Reader[list[T]]:
    """A reader of a list whose items ``reader`` reads."""

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
    """A reader of text that is not empty."""
    if not isinstance(value, str) or not value:
        raise JsonError(f"{value!r} is not a text")
    return value


def optional_text(value: Any) -> str | None:
    """A reader of text that is not empty, or null."""
    return None if value is None else text(value)


def any_text(value: Any) -> str:
    """A reader of text, which may be empty."""
    return value if value == "" else text(value)


def anything(value: Any) -> Any:
    """A reader of any value."""
    return value


def mapping(value: Any) -> dict[str, Any]:
    """A reader of an object with any fields."""
    if not isinstance(value, dict):
        raise JsonError("is not a JSON object")
    return value


def one_of(*words: Any) -> Reader[Any]:
    """A reader of one of these values."""

    def read(value: Any) -> Any:
        if value not in words or type(value) not in map(type, words):
            allowed = f"one of {' '.join(map(str, words))}" if len(words) > 1 else words[0]
            raise JsonError(f"{value!r} is not {allowed}")
        return value

    return read


def whole(low: int = 0) -> Reader[int]:
    """A reader of a whole number that is at least ``low``."""

    def read(value: Any) -> int:
        if type(value) is not int or value < low:
            raise JsonError(f"{value!r} is not a whole number >= {low}")
        return value

    return read


def number(low: float = -math.inf, high: float = math.inf) -> Reader[float]:
    """A reader of a finite number from ``low`` to ``high``."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
            raise JsonError(f"{value!r} is not a number from {low:g} to {high:g}")
        return float(value)

    return read


def any_number(value: Any) -> float:
    """A reader of a number, NaN and infinities among them as ``to_text`` writes them."""
    if isinstance(value, str) and value in _SPELLED:
        return float(value)
    return number()(value)


def with_rows(head: Mapping[str, Any], name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON text of ``head``, which is not empty, and under ``name`` of the rows, a line each."""
    lines = ",\n".join("  " + to_line(row) for row in rows)
    return f'{to_text(head, 1).strip()[:-2]},\n "{name}": [\n{lines}\n ]\n}}\n'
