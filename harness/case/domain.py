"""Domain: the cases that a user's function declares to take, as plain values without torch.

Without any declaration a function gets 1 to 16 sequences at one position, one query token each,
as many KV heads as query heads, contiguous caches, and no options. Each feature lifts one of
these limits; they combine freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.case import DTYPES, MASKS, MAX_CACHE_LEN, SCORES, DecodeCase, long_dtype
from harness.case.features import FEATURES, features_of
from harness.case.forms import plain
from harness.case.kinds import Kind
from harness.case.layouts import OUTSIDE, STRIDED
from harness.case.quantised import QUANTISED_FEATURES
from harness.support.text import not_one_of

HEAD_DIMS = (16, 32, 64, 128, 256)
MAX_BATCH = 16
MAX_Q_LEN = 128
CACHE_LEN = (1, 2**17)


class DomainError(ValueError):
    """A declaration that contradicts itself or names something unknown; the message says what is
    allowed."""


@dataclass(frozen=True)
class Domain:
    """The cases that a user's function takes.

    ``features`` are those that a case may need, ``requires`` those that every case has, which are
    among the features too. A case has one of the ``head_dims`` and one of the ``dtypes``, and
    ``cache_len`` is the fewest and the most slots.

    Raises:
        DomainError: for an unknown feature, for required ones that no case can have together, or
            for an empty or impossible range.
    """

    features: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = HEAD_DIMS
    cache_len: tuple[int, int] = CACHE_LEN
    dtypes: tuple[str, ...] = DTYPES
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        requires = known_features(self.requires, "requires")
        features = (*known_features(self.features), *requires)
        object.__setattr__(self, "requires", requires)
        object.__setattr__(self, "features", known_features(features))
        object.__setattr__(self, "dtypes", known_dtypes(self.dtypes))
        object.__setattr__(self, "head_dims", known_head_dims(self.head_dims))
        low, high = self.cache_len
        if not 1 <= low <= high <= MAX_CACHE_LEN:
            raise DomainError(f"cache_len {low}:{high} is not MIN:MAX in 1 to {MAX_CACHE_LEN}")
        masks = [kind.feature for kind in MASKS.values() if kind.feature in requires]
        if len(masks) > 1:
            raise DomainError(f"requires: {' and '.join(masks)}, but a case has one mask")
        caches = [name for name in requires if name in QUANTISED_FEATURES]
        if len(caches) > 1:
            raise DomainError(f"requires: {' and '.join(caches)}, but a case has one cache")
        for feature, cache in (("strided", "fp8"), ("strided", "int8"), ("nonfinite_tail", "int8")):
            if {feature, cache} <= set(requires):
                raise DomainError(f"requires: {feature} and {cache}, which no case has together")
        if high < self.least_slots:
            raise DomainError(f"cache_len {low}:{high}: requires needs {self.least_slots} slots")

    @property
    def apart(self) -> bool:
        """Whether every case has two live sequences at different positions."""
        return "ragged" in self.requires and "idle" not in self.features

    @property
    def least_slots(self) -> int:
        """The slots that a case has at least, to hold what is required."""
        return 1 + self.apart + ("chunk" in self.requires)

    def refuses(self, case: DecodeCase) -> str | None:
        """The reason why ``case`` is outside this domain, or None where it is inside."""
        if reason := outside(case):
            return reason
        has = features_of(case)
        missing = ", ".join(name for name in has if name not in self.features)
        lacking = ", ".join(name for name in self.requires if name not in has)
        low, high = self.cache_len
        dims = ",".join(map(str, self.head_dims))
        reasons = {
            f"needs {missing}: not in supports": not missing,
            f"lacks {lacking}: in requires": not lacking,
            f"D={case.head_dim} is not in head_dims {dims}": case.head_dim in self.head_dims,
            f"{case.dtype} is not in dtypes {','.join(self.dtypes)}": case.dtype in self.dtypes,
            f"S={case.cache_len} is not in cache_len {low}:{high}": low <= case.cache_len <= high,
        }
        return next((reason for reason, fine in reasons.items() if not fine), None)


def known_features(names: Iterable[str], field: str = "supports") -> tuple[str, ...]:
    """The names of features in the order of ``FEATURES``, each once; ``field`` is what declares
    them.

    Raises:
        DomainError: for an unknown name, or where ``names`` is not a set of names.
    """
    given = _several(names, field, "names")
    for name in given:
        if name not in FEATURES:
            raise DomainError(f"{field}: {not_one_of(name, FEATURES)}")
    return tuple(name for name in FEATURES if name in given)


def known_dtypes(names: Iterable[str]) -> tuple[str, ...]:
    """The long names of a case's dtypes in the order of ``DTYPES``, each once.

    Raises:
        DomainError: for an unknown name, for none, or where ``names`` is not a set of names.
    """
    given = [long_dtype(name) for name in _several(names, "dtypes", "names")]
    for name in given:
        if name not in DTYPES:
            raise DomainError(f"dtypes: {not_one_of(name, DTYPES)}")
    if not given:
        raise DomainError(f"dtypes: needs at least one of {' '.join(DTYPES)}")
    return tuple(name for name in DTYPES if name in given)


def known_head_dims(sizes: Iterable[int]) -> tuple[int, ...]:
    """Head dims from the smallest to the largest, each once.

    Raises:
        DomainError: for one that is out of range, for none, or where ``sizes`` is not a set.
    """
    given = _several(sizes, "head_dims", "whole numbers")
    for size in given:
        if type(size) is not int or not 1 <= size <= 1024:
            raise DomainError(f"head_dims: {size!r} is not a whole number in 1 to 1024")
    if not given:
        raise DomainError("head_dims: needs at least one whole number in 1 to 1024")
    return tuple(sorted(set(given)))


def _several(given: Any, field: str, what: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DomainError(f"{field}: {given!r} is not a set of {what}")
    return list(given)


def outside(case: DecodeCase) -> str | None:
    """The reason why ``case`` is outside the domain of every user's function, or None."""
    layouts = ("contiguous", *STRIDED)
    others = [kind.name for kind in case.score_kinds if not kind.feature]
    reasons = {
        f"{case.batch} sequences; a function gets 1 to {MAX_BATCH}": (1 <= case.batch <= MAX_BATCH),
        f"Q={case.q_len}; a function gets at most {MAX_Q_LEN}": case.q_len <= MAX_Q_LEN,
        f"mask={case.mask}; a function is asked for {_offered(MASKS)}": (
            case.plainly_causal or case.mask_kind.feature != ""
        ),
        f"score={'+'.join(others)}; a function is asked for {_offered(SCORES)}": not others,
        f"layout={case.layout}; a function gets {' '.join(layouts)}": case.layout in layouts,
        f"vlayout={case.value_layout}; a function gets {' '.join(layouts)}": (
            case.value_layout_kind.name in layouts
        ),
        "recipe, tables, tsize, capture, options, layers, earlier and views are for paths that"
        " build a block mask": (
            (case.recipe, case.views, case.earlier) == ("fresh", "outside", ()) and plain(case)
        ),
        f"qlayout={case.query_layout}; a function gets {' '.join(OUTSIDE)}": (
            case.query_layout in OUTSIDE
        ),
    }
    return next((reason for reason, fine in reasons.items() if not fine), None)


def _offered(kinds: Mapping[str, Kind]) -> str:
    return " ".join(kind.name for kind in kinds.values() if kind.feature or not kind.arguments)
