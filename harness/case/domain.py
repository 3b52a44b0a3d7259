"""Domain: the cases that a user's function declares to take, as plain values without torch.

Without any declaration a function gets 1 to 4 sequences at one position, one query token each,
as many KV heads as query heads, contiguous caches, and no options. Each feature lifts one of
these limits; they combine freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.case import DTYPES, MASKS, MAX_CACHE_LEN, SCORES, DecodeCase
from harness.case.features import FEATURES, features_of
from harness.case.kinds import Kind
from harness.case.layouts import STRIDED

HEAD_DIMS = (16, 32, 64, 128, 256)
MAX_BATCH = 4
MAX_Q_LEN = 128


class DomainError(ValueError):
    """A declaration that contradicts itself or names something unknown; the message says what is
    allowed."""


@dataclass(frozen=True)
class Domain:
    """The cases that a user's function takes: ``features`` that they may need, ``head_dims``, the
    fewest and the most slots ``cache_len``, and ``dtypes``.

    Raises:
        DomainError: for an unknown feature, or an empty or impossible range.
    """

    features: tuple[str, ...] = ()
    head_dims: tuple[int, ...] = HEAD_DIMS
    cache_len: tuple[int, int] = (1, 1024)
    dtypes: tuple[str, ...] = DTYPES

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", known_features(self.features))
        for dtype in self.dtypes:
            if dtype not in DTYPES:
                raise DomainError(f"dtype {dtype!r} is not one of {' '.join(DTYPES)}")
        for head_dim in self.head_dims:
            if not 1 <= head_dim <= 1024:
                raise DomainError(f"head dim {head_dim} is not in 1 to 1024")
        if not self.dtypes or not self.head_dims:
            raise DomainError("needs at least one dtype and one head dim")
        low, high = self.cache_len
        if not 1 <= low <= high <= MAX_CACHE_LEN:
            raise DomainError(f"cache_len {low}:{high} is not MIN:MAX in 1 to {MAX_CACHE_LEN}")

    def refuses(self, case: DecodeCase) -> str | None:
        """The reason why ``case`` is outside this domain, or None where it is inside."""
        if reason := outside(case):
            return reason
        if missing := [name for name in features_of(case) if name not in self.features]:
            return f"needs {', '.join(missing)}: not in supports"
        if case.head_dim not in self.head_dims:
            return f"D={case.head_dim} is not in --head-dims {','.join(map(str, self.head_dims))}"
        if case.dtype not in self.dtypes:
            return f"{case.dtype} is not in --dtypes {','.join(self.dtypes)}"
        low, high = self.cache_len
        if not low <= case.cache_len <= high:
            return f"S={case.cache_len} is not in --cache-len {low}:{high}"
        return None

    @classmethod
    def around(cls, case: DecodeCase) -> Domain:
        """The smallest domain that contains ``case``."""
        size = case.cache_len
        return cls(features_of(case), (case.head_dim,), (size, size), (case.dtype,))


def known_features(names: Iterable[str]) -> tuple[str, ...]:
    """The names of features in the order of ``FEATURES``, each once.

    Raises:
        DomainError: for an unknown name, or where ``names`` is not a set of names.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise DomainError(f"supports: {names!r} is not a set of names")
    given = list(names)
    for name in given:
        if name not in FEATURES:
            raise DomainError(f"supports: {name!r} is not one of {' '.join(FEATURES)}")
    return tuple(name for name in FEATURES if name in given)


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
        "recipe and views are for paths that build a block mask": (
            case.recipe == "fresh" and case.views == "outside"
        ),
    }
    return next((reason for reason, fine in reasons.items() if not fine), None)


def _offered(kinds: Mapping[str, Kind]) -> str:
    return " ".join(kind.name for kind in kinds.values() if kind.feature or not kind.arguments)
