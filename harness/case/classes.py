"""Classes of cases, axis by axis, and pairs of them: what a run says that it covered.

A class is text such as ``slots 1025-4096``. Lengths and positions are classed by powers of four,
counts of heads, sequences and query tokens by what kernels tell apart. An "edge" is a power of two
that a position or the number of filled slots is equal to: there a block, split or bucket ends.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from harness.case import MAX_CACHE_LEN, SHORT_DTYPES, DecodeCase
from harness.case.domain import MAX_BATCH, MAX_Q_LEN, Domain
from harness.case.features import features_of

# The largest size of each class; the last one bounds what there can be.
_BOUNDS = {
    "slots": (16, 64, 256, 1024, 4096, 16384, 65536, MAX_CACHE_LEN),
    "position": (0, 16, 64, 256, 1024, 4096, 16384, 65536, MAX_CACHE_LEN),
    "edge": (1, 16, 64, 256, 1024, 4096, 16384, MAX_CACHE_LEN),
    "group": (1, 2, 3, 4, 5, 6, 7, 8, 1024),
    "heads": (1, 8, 1024),
    "batch": (1, 4, MAX_BATCH),
    "Q": (1, 16, MAX_Q_LEN),
}
# Features that have an axis of their own.
_SIZES = ("gqa", "chunk")
_PLAIN = "plain"


@dataclass(frozen=True, eq=False)
class Class:
    """The cases whose size on one ``axis`` lies in ``low`` to ``high``, or, on an axis without
    order, has this ``name``. There is one object of each, made by ``_class``."""

    axis: str
    low: int
    high: int
    name: str = ""

    def __str__(self) -> str:
        if self.name:
            return f"{self.axis} {self.name}"
        if self.low == self.high:
            return f"{self.axis} {self.low}"
        most = "" if self.high == _BOUNDS[self.axis][-1] and self.high > MAX_Q_LEN else self.high
        return f"{self.axis} {self.low}-{most}" if most else f"{self.axis} {self.low}+"


Pair = tuple[Class, Class]


@functools.cache
def _class(axis: str, low: int, high: int, name: str = "") -> Class:
    return Class(axis, low, high, name)


def _sized(axis: str, size: int) -> Class:
    low = 0 if axis == "position" else 1
    for high in _BOUNDS[axis]:
        if size <= high:
            return _class(axis, low, high)
        low = high + 1
    return _class(axis, low, size)


def _named(axis: str, name: str) -> Class:
    return _class(axis, 0, 0, name)


def _order(one: Class) -> tuple[str, int, str]:
    return one.axis, one.low, one.name


def _options(features: Iterable[str]) -> list[str]:
    return [name for name in features if name not in _SIZES] or [_PLAIN]


def _edges(case: DecodeCase) -> list[int]:
    sizes = {n for p in case.input_pos if p >= 0 for n in (p, p + case.q_len)}
    return [n for n in sizes if n > 0 and n & (n - 1) == 0]


_SIZES_OF: dict[str, Callable[[DecodeCase], Iterable[int]]] = {
    "slots": lambda case: [case.cache_len],
    "position": lambda case: [p for p in case.input_pos if p >= 0],
    "edge": _edges,
    "group": lambda case: [case.heads // case.kv_heads],
    "heads": lambda case: [case.heads],
    "batch": lambda case: [case.batch],
    "Q": lambda case: [case.q_len],
}


@functools.lru_cache(maxsize=2**14)
def classes_of(case: DecodeCase) -> frozenset[Class]:
    """The classes of a case: one on each axis, but several on "position" and "option", and any
    number on "edge"."""
    sized = {_sized(axis, size) for axis, sizes in _SIZES_OF.items() for size in sizes(case)}
    named = [("dtype", SHORT_DTYPES[case.dtype])]
    named += [("option", name) for name in _options(features_of(case))]
    dims = _class("D", case.head_dim, case.head_dim)
    return frozenset(sized | {_named(axis, name) for axis, name in named} | {dims})


@functools.lru_cache(maxsize=2**10)
def pairs_of(classes: frozenset[Class]) -> tuple[Pair, ...]:
    """Two classes at a time, of axes that do not depend on each other, each pair in the same
    order."""
    two = itertools.combinations(sorted(classes, key=_order), 2)
    return tuple((one, other) for one, other in two if not _dependent(one.axis, other.axis))


def _dependent(one: str, other: str) -> bool:
    return one == other or {one, other} == {"edge", "position"}


def _within(axis: str, low: int, high: int) -> list[Class]:
    first = 0 if axis == "position" else 1
    found = []
    for bound in _BOUNDS[axis]:
        if first <= high and bound >= low:
            found.append(_class(axis, first, bound))
        first = bound + 1
    return found


def classes_in(domain: Domain) -> list[Class]:
    """The classes that cases of a domain may have."""
    has = domain.features.__contains__
    low, high = domain.cache_len
    most = {"group": 1024 if has("gqa") else 1, "Q": MAX_Q_LEN if has("chunk") else 1}
    found = _within("slots", low, high) + _within("position", 0, high - 1)
    found += [edge for edge in _within("edge", 1, high) if _power(edge.low) <= high]
    for axis in ("group", "heads", "batch", "Q"):
        found += _within(axis, 1, min(most.get(axis, 1024), high if axis == "Q" else 1024))
    found += [_class("D", head_dim, head_dim) for head_dim in domain.head_dims]
    found += [_named("dtype", SHORT_DTYPES[dtype]) for dtype in domain.dtypes]
    names = dict.fromkeys((_PLAIN, *_options(domain.features)))
    return found + [_named("option", name) for name in names]


def _power(low: int) -> int:
    """The smallest power of two that is at least ``low``."""
    return 1 << (low - 1).bit_length()


def _together(one: Class, other: Class, most_slots: int) -> bool:
    """Whether a case may have both."""
    low = {one.axis: one.low, other.axis: other.low}
    most = {one.axis: one.high, other.axis: other.high}
    names = {one.axis: one.name, other.axis: other.name}
    slots = min(most.get("slots", most_slots), most_slots)
    if max(low.get("position", 0) + low.get("Q", 1), _power(low.get("edge", 1))) > slots:
        return False
    if low.get("group", 1) > most.get("heads", 1024):
        return False
    return names.get("option") != "ragged" or most.get("batch", MAX_BATCH) > 1


def pairs_in(domain: Domain) -> Iterator[Pair]:
    """The pairs of classes that cases of a domain may have, by the rules of a case alone: some may
    be too large to be run."""
    most_slots = domain.cache_len[1]
    return (p for p in pairs_of(frozenset(classes_in(domain))) if _together(*p, most_slots))


@dataclass
class Coverage:
    """How many cases of each class, and of each pair of classes, were run."""

    classes: Counter[Class] = field(default_factory=Counter)
    pairs: Counter[Pair] = field(default_factory=Counter)

    def add(self, case: DecodeCase) -> None:
        """Count a case."""
        classes = classes_of(case)
        self.classes.update(classes)
        self.pairs.update(pairs_of(classes))

    def gain(self, case: DecodeCase) -> int:
        """How many classes and pairs of a case were not run yet."""
        classes = classes_of(case)
        new = sum(name not in self.classes for name in classes)
        return new + sum(pair not in self.pairs for pair in pairs_of(classes))

    def reached(self) -> list[str]:
        """What was run on each axis, as text: the smallest to the largest class, or the names."""
        found: dict[str, list[Class]] = {}
        for name in sorted(self.classes, key=_order):
            found.setdefault(name.axis, []).append(name)
        return [
            f"{axis} {' '.join(c.name for c in ran)}" if ran[0].name else _span(axis, ran)
            for axis, ran in found.items()
            if axis != "option"
        ]


def _span(axis: str, ran: list[Class]) -> str:
    first, last = ran[0], ran[-1]
    return str(first) if first == last else f"{axis} {first.low} to {str(last).split()[1]}"
