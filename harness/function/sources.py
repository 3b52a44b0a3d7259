"""The sources of a search, each with its share of the time."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case.domain import Domain
from harness.function.item import Item, Single
from harness.function.schedule import Source
from harness.strategies.functions import domain_cases

# Of the time of a search, in proportion to each other.
DRAWN = 60.0


def sources(
    domain: Domain, seed: int, max_examples: int, *, compiled_geometries: int = 0
) -> list[Source]:
    """The sources of a search over ``domain``; the first one bounds it.

    Args:
        seed: the same gives the same items in each source.
        max_examples: the most drawn cases. The other sources get their share of the time that these
            take.
        compiled_geometries: if not 0, calls are compiled, for so many geometries.
    """

    def drawn() -> Iterator[Item]:
        return map(Single, domain_cases(domain, seed, compiled_geometries=compiled_geometries))

    return [Source("drawn", DRAWN, drawn(), most=max_examples)]
