"""What to run, as plain values, and what can be said of it before anything of it is imported."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from harness.case.domain import Domain
from harness.function.declarations import Declarations
from harness.support.strict_json import from_text, to_line

# A domain's cache lengths where Triton kernels are interpreted, which is slow.
TRITON_CACHE_LEN = (1, 200)
FORMS = "package.module:function or path/to/file.py:function"


class TargetError(ValueError):
    """A TARGET of the command line that cannot be loaded or called; the message says why."""


@dataclass(frozen=True)
class TargetSpec:
    """What to run, ``target`` (a user's function, or a path by name), and what its user declares.

    ``declared`` replaces the function's own attributes where it is not None; ``cache_len`` is that
    of the function's domain. ``triton`` says that its Triton kernels run in Triton's interpreter,
    watched by ``harness.function.sanitizer``.
    """

    target: str
    device: str = "cpu"
    declared: Declarations = field(default_factory=Declarations)
    cache_len: tuple[int, int] = Domain.cache_len
    triton: bool = False

    def to_json(self) -> str:
        """The specification as JSON text."""
        return to_line(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TargetSpec:
        """Read what ``to_json`` wrote."""
        values = from_text(text)
        values["declared"] = Declarations(**values["declared"])
        return cls(**values | {"cache_len": tuple(values["cache_len"])})


def place_and_name(target: str) -> tuple[str, str]:
    """The module or file of a TARGET, and the name in it.

    Raises:
        TargetError: for text of another form, or a file that is not there.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise TargetError(f"TARGET: {target!r} is not {FORMS}")
    if place.endswith(".py") and not Path(place).is_file():
        raise TargetError(f"there is no file {place}")
    return place, name
