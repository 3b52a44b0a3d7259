"""What is known of a function: the mistake in it, and what is right to say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tests.functions.shown import Shown

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Entry:
    """A function ``module:name`` and what is known of it.

    ``category`` is the module's name, ``mistake`` one sentence, for a sound function what is
    special about it. ``verdicts`` are those that are right for it, by name: OK alone for a sound
    one. ``shown`` shows that the mistake is there, without ``check``. ``says`` is a regular
    expression that the text of ``check`` has to match, or "".
    """

    module: str
    name: str
    mistake: str
    verdicts: frozenset[str]
    function: Function
    shown: Shown | None = None
    says: str = ""

    @property
    def category(self) -> str:
        """The module's name without its package."""
        return self.module.rpartition(".")[2]

    @property
    def sound(self) -> bool:
        """Whether there is nothing to find."""
        return self.shown is None

    @property
    def target(self) -> str:
        """The TARGET of ``python -m harness check``."""
        return f"{self.module}:{self.name}"


REGISTERED: list[Entry] = []


def _register(function: Function, verdicts: frozenset[str], shown: Shown | None, says: str) -> None:
    text = " ".join((function.__doc__ or "").split())
    REGISTERED.append(
        Entry(function.__module__, function.__name__, text, verdicts, function, shown, says)
    )


def _declare(function: Function, declared: dict[str, Any]) -> None:
    for name, value in declared.items():
        setattr(function, name, set(value.split()) if name == "supports" else value)


def faulty(
    verdicts: str, shown: Shown, *, says: str = "", **declared: Any
) -> Callable[[Function], Function]:
    """Register a function whose docstring is its mistake.

    Args:
        verdicts: those that are right for it, separated by spaces.
        shown: shows that the mistake is there.
        says: what the text of ``check`` has to match.
        declared: attributes of the function, ``supports`` separated by spaces.
    """

    def register(function: Function) -> Function:
        _declare(function, declared)
        _register(function, frozenset(verdicts.split()), shown, says)
        return function

    return register


def sound(**declared: Any) -> Callable[[Function], Function]:
    """Register a function without a mistake, whose docstring says what is special about it."""

    def register(function: Function) -> Function:
        _declare(function, declared)
        _register(function, frozenset({"OK"}), None, "")
        return function

    return register
