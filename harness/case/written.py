"""The text of a case, its id, and its JSON: how both are written and read."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from harness.case.errors import CaseError
from harness.case.fields import FieldError, Integer
from harness.support.strict_json import JsonError, anything, fields, parse, to_line
from harness.support.text import not_one_of

if TYPE_CHECKING:
    from typing import Self


# The default of a field is another field's value.
_FOLLOWS = {"kv_heads": "heads", "value_dim": "head_dim"}


class Written:
    """A frozen dataclass of a case's fields that is written as an id, and read from one."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __str__(self) -> str:
        parts: dict[str, str] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            default = getattr(self, _FOLLOWS[f.name]) if f.name in _FOLLOWS else f.default
            if f.name == "input_pos" and len(value) > 1 and len(set(value)) == 1:
                parts["B"] = str(len(value))
                value = value[:1]
            if f.default is dataclasses.MISSING or value != default:
                parts[f.metadata["key"]] = f.metadata["type"].format(value)
        return ",".join(f"{key}={text}" for key, text in parts.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}.from_text({str(self)!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython's protocol
        """Print one line where IPython and Hypothesis would print all fields."""
        printer.text(repr(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a case id, the text that ``str(case)`` gives.

        Raises:
            CaseError: for text that is no case id; the message names the field and what is allowed.
        """
        fields = {f.metadata["key"]: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for part in text.strip().split(","):
            key, equals, value = part.strip().partition("=")
            if not equals:
                raise CaseError(f"{part.strip()!r} is not key=value; keys are B {' '.join(fields)}")
            name = "batch" if key == "B" else fields[key].name if key in fields else None
            if name is None:
                raise CaseError(f"key {not_one_of(key, ['B', *fields])}")
            if name in values:
                raise CaseError(f"{name} ({key}): given twice")
            kind = Integer(0, 4096) if key == "B" else fields[key].metadata["type"]
            try:
                values[name] = kind.parse(value)
            except FieldError as error:
                raise CaseError(f"{name} ({key}): {error}") from None
        return cls._complete(values)

    @classmethod
    def _complete(cls, values: dict[str, Any]) -> Self:
        for f in dataclasses.fields(cls):
            if f.default is dataclasses.MISSING and f.name not in values:
                raise CaseError(f"{f.name} ({f.metadata['key']}): missing; {f.metadata['help']}")
        batch = values.pop("batch", None)
        positions = values["input_pos"]
        if batch is not None and len(positions) == 1:
            values["input_pos"] = positions * batch
        elif batch not in (None, len(positions)):
            raise CaseError(f"batch (B): {batch}, but pos lists {len(positions)} positions")
        return cls(**values)

    def to_json(self) -> str:
        """A JSON object with every field by its full name, so that a change of defaults changes no
        kept case."""
        return to_line(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            CaseError: for text that is not JSON, an unknown field, or a value out of range.
        """
        names = {f.name: anything for f in dataclasses.fields(cls)}
        try:
            return cls._complete(fields(parse(text), {}, names))
        except JsonError as error:
            raise CaseError(str(error)) from None
