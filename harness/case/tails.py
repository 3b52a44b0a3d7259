"""The kinds of tails: what the slots hold that no query of a sequence may attend, the simplest
first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

POISON = 1e4
# A fill is a number, "normal" for standard normal numbers like the rest of the cache, or "max" for
# the largest number of the dtype.
Fill = float | Literal["normal", "max"]


@dataclass(frozen=True)
class TailKind:
    """What the tail's slots hold: ``key`` and ``value``.

    Every path must ignore a ``finite`` tail. In one that is not, slots that were written once hold
    ``POISON`` in keys and values. ``other`` is the tail that replaces this one to see whether the
    output changes."""

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
        # The keys are like any other, so that every slot of the tail that leaks gets weight.
        TailKind("poison", "normal", POISON, "leftovers"),
        TailKind("max", POISON, "max", "leftovers"),
        TailKind("nan", math.nan, math.nan, "leftovers", finite=False),
        TailKind("inf", math.inf, math.inf, "leftovers", finite=False),
    )
}
FINITE_TAILS = tuple(name for name, tail in TAILS.items() if tail.finite)
NONFINITE_TAILS = tuple(name for name, tail in TAILS.items() if not tail.finite)
