"""Kinds of masks, score_mods, tails and layouts: what their tables have in common.

A kind is one entry of a table (``MASKS``, ``SCORES``, ``TAILS``, ``LAYOUTS``). The entries of masks
and score_mods do not hold the rule itself. Each module that computes the rule states it for every
kind, independently of the others, and looks the kind up with ``stated``, which raises for a kind
that this module does not state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from harness.case.fields import Integer

T = TypeVar("T")
K = TypeVar("K", bound="Kind")


class UnknownKind(LookupError):
    """A kind of mask, score_mod, tail or layout for which a module states no rule."""


def stated(statements: Mapping[str, T], kind: str, where: str) -> T:
    """The statement of a kind among ``statements``; ``where`` names their place in the message.

    Raises:
        UnknownKind: for a kind without a statement; the message names the kind and the place.
    """
    if kind not in statements:
        raise UnknownKind(f"{where}: {kind!r} is not one of {' '.join(statements)}")
    return statements[kind]


def sizes(block: int) -> tuple[int, ...]:
    """Sizes that are likely to show a fault: the smallest ones, and those around a block size."""
    return tuple(n for n in (1, 2, block - 1, block, block + 1) if n > 0)


@dataclass(frozen=True)
class Argument:
    """One whole number that a kind takes, ``low`` to ``high``; ``letter`` stands for it in help.

    The number is drawn from ``likely(block)`` and from ``low`` to ``most`` (to cache_len where
    ``most`` is None), or from ``likely`` alone where ``listed``. With ``in_cache`` it may not
    exceed cache_len. ``edge(position, value)`` gives the slots where, for a query at ``position``,
    the mask begins or ends: probes with a needle put it there. With ``lowers``, shrinking tries
    smaller numbers. ``option`` is the keyword under which a user's function gets the number, with
    ``as_float`` as a float.
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
        """The type of field that reads and checks the number."""
        return Integer(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of mask or score_mod, written ``word:1:2``; ``arguments`` by name, in their order.

    ``feature`` is what a user's function declares to get cases of this kind ("" where it never
    does), and ``asks`` tells the function's author what the feature asks of the function.
    """

    name: str
    help: str
    arguments: Mapping[str, Argument]
    feature: str = ""
    asks: str = ""

    @property
    def form(self) -> str:
        """How the kind is written, with letters for the arguments: ``window:W``."""
        return ":".join([self.name, *(argument.letter for argument in self.arguments.values())])

    def text(self, arguments: Mapping[str, int]) -> str:
        """The kind with these arguments in a case id: ``window:64``."""
        return ":".join([self.name, *(str(arguments[name]) for name in self.arguments)])

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords under which a user's function gets the arguments."""
        return tuple(a.option for a in self.arguments.values() if a.option)


def by_name(*kinds: K) -> dict[str, K]:
    """A table of these kinds, by name."""
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
