"""The compiled geometries of a gate: which there are, in which order, and what they covered."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.case import DecodeCase
from harness.case.forms import plain_form
from harness.paths import Path
from harness.strategies.factors import Pair, covering, possible_pairs
from harness.strategies.geometries import POOL, in_order
from harness.verdict.known_failures import split_decode


@dataclass(frozen=True)
class Compiled:
    """A geometry for a path, and the pairs of ``harness.strategies.factors`` that are in it."""

    geometry: DecodeCase
    path: Path
    pairs: frozenset[Pair] = frozenset()


def compiled(seed: int, kernels: str, device: str, paths: Sequence[Path]) -> Iterator[Compiled]:
    """What a gate compiles: by turns a geometry on which the tests judge all compiled paths, and
    one of those that cover every pair, each in an order that the seed changes.

    Of the latter only those with static shapes: whether a kernel with dynamic ones compiles
    depends on names (flexcpu-dynamic-symbol-prefix). Paths that make their block mask themselves
    get the geometry in its plain form."""
    static = [path for path in paths if path.static]
    first = [(one, frozenset[Pair]()) for one in in_order(seed)]
    covers = covering(
        kernels, seed, lambda one: one.case.dynamic_shapes is False and one.threads == 1
    )
    second = [(one.case, frozenset(one.pairs)) for one in covers]
    for pair in itertools.zip_longest(first, second):
        for one in pair:
            if one is None:
                continue
            geometry, pairs = one
            if kernels == "triton":
                geometry = geometry.replace(kernels=kernels)
            for path in static:
                case = geometry if path.forms else plain_form(geometry)
                if not path.unsupported(case, device):
                    yield Compiled(case, path, pairs if path.forms else frozenset())


@dataclass
class Covered:
    """What was judged: verdicts by geometry, and pairs."""

    verdicts: Counter[DecodeCase] = field(default_factory=Counter)
    pairs: set[Pair] = field(default_factory=set)

    def add(self, one: Compiled, verdicts: int) -> None:
        """So many verdicts more on a geometry."""
        self.verdicts[one.geometry] += verdicts
        if verdicts:
            self.pairs |= one.pairs

    def text(self, kernels: str, device: str) -> str:
        """How many geometries, of which kernels, with how many verdicts and pairs."""
        judged = [geometry for geometry, count in self.verdicts.items() if count]
        pool = {one.replace(kernels=kernels) for one in POOL}
        cpp = device == "cpu" and kernels == "cpp"
        kinds = f"{sum(map(split_decode, judged))} of the split kernel's, " if cpp else ""
        return (
            f"{len(pool & set(judged))} of {len(POOL)} geometries of the tests,"
            f" {len(set(judged) - pool)} others, {kinds}{self.verdicts.total()} verdicts,"
            f" {len(self.pairs)} of {len(possible_pairs(kernels))} pairs"
        )
