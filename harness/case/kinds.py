"""What the tables of kinds share: arguments, and statements of one rule that stand in many places.

A kind of mask, score_mod, tail or layout is one entry of a table (``MASKS``, ``SCORES``, ``TAILS``,
``LAYOUTS``). Which slots a query attends, and what happens to its score, is stated apart from the
entry, by each that computes it; ``stated`` is how they look a kind up, so that a kind which one
of them does not know raises there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from harness.case.fields import Integer

T = TypeVar("T")
K = TypeVar("K", bound="Kind")


class UnknownKind(LookupError):
    """A kind of mask, score_mod, tail or layout that a statement does not know."""


def stated(statements: Mapping[str, T], kind: str, where: str) -> T:
    """What ``where`` states of a kind.

    Raises:
        UnknownKind: naming the kind and where it is unknown.
    """
    if kind not in statements:
        raise UnknownKind(f"{where}: {kind!r} is not one of {' '.join(statements)}")
    return statements[kind]


def sizes(block: int) -> tuple[int, ...]:
    """The smallest sizes and those around a block."""
    return tuple(n for n in (1, 2, block - 1, block, block + 1) if n > 0)


@dataclass(frozen=True)
class Argument:
    """One whole number that a kind takes, ``low`` to ``high``; ``letter`` stands for it in help.

    It is drawn from ``likely(block)`` and from ``low`` to ``most``, or to cache_len where that is
    None; from ``likely`` alone where ``listed``. ``in_cache`` says that it may not exceed
    cache_len. ``edge(position, value)`` gives the slots where, for a query at ``position``, the
    kind begins or ends: needles go there. Shrinking lowers it where ``lowers``. ``option`` is the
    keyword in which a user's function gets it, ``as_float`` as a float.
    """

    letter: str
    low: int = 1
    high: int | None = None
    most: int | None = None
    likely: Callable[[int], tuple[int, ...]] = sizes
    listed: bool = False
    in_cache: bool = False
    edge: Callable[[int, int], tuple[int, ...]] = lambda position, value: ()
    lowers: bool = True
    option: str = ""
    as_float: bool = False

    @property
    def type_(self) -> Integer:
        """How it is read and checked."""
        return Integer(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A word with whole-number arguments, ``word:1:2``; ``arguments`` by name, in their order.

    ``feature`` is what a user's function declares to be asked for it, "" where none is, and
    ``asks`` says to the function's author what that means.
    """

    name: str
    help: str
    arguments: Mapping[str, Argument]
    feature: str = ""
    asks: str = ""

    @property
    def form(self) -> str:
        """``window:W``."""
        return ":".join([self.name, *(argument.letter for argument in self.arguments.values())])

    def text(self, arguments: Mapping[str, int]) -> str:
        """``window:64``."""
        return ":".join([self.name, *(str(arguments[name]) for name in self.arguments)])

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords in which a user's function gets the arguments."""
        return tuple(a.option for a in self.arguments.values() if a.option)


def by_name(*kinds: K) -> dict[str, K]:
    """A table of kinds."""
    return {kind.name: kind for kind in kinds}


def argument_types(kinds: Mapping[str, Kind]) -> dict[str, tuple[Integer, ...]]:
    """How the arguments of each kind are read and checked, in their order."""
    return {
        name: tuple(argument.type_ for argument in kind.arguments.values())
        for name, kind in kinds.items()
    }


def forms(kinds: Mapping[str, Kind]) -> str:
    """The kinds for a reader, each as it is written and with its help."""
    return "; ".join(f"{kind.form} ({kind.help})" for kind in kinds.values())
