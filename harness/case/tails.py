"""The kinds of tails: what lies in the slots that nobody may attend, the simplest first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

POISON = 1e4
# A number; standard normal ones, like the rest of the cache; the largest of the dtype.
Fill = float | Literal["normal", "max"]


@dataclass(frozen=True)
class TailKind:
    """``key`` and ``value`` say what unused slots hold. ``finite`` tails are to be ignored by every
    path; ``other`` is the tail to which a search for leaks changes it."""

    name: str
    key: Fill
    value: Fill
    other: str
    finite: bool = True


TAILS: dict[str, TailKind] = {
    tail.name: tail
    for tail in (
        TailKind("zeros", 0.0, 0.0, "poison"),
        TailKind("leftovers", "normal", "normal", "poison"),
        # Keys like any other, so that every slot would get its share of the weight.
        TailKind("poison", "normal", POISON, "leftovers"),
        TailKind("max", POISON, "max", "leftovers"),
        TailKind("nan", math.nan, math.nan, "leftovers", finite=False),
        TailKind("inf", math.inf, math.inf, "leftovers", finite=False),
    )
}
FINITE_TAILS = tuple(name for name, tail in TAILS.items() if tail.finite)
NONFINITE_TAILS = tuple(name for name, tail in TAILS.items() if not tail.finite)
