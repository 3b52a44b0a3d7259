"""The sources of a search, each with its share of the time."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case.domain import Domain
from harness.function.calls import Calls, Pace
from harness.function.item import Item, Single
from harness.function.schedule import Source
from harness.strategies.functions import domain_cases
from harness.strategies.loops import domain_loops

# Of the time of a search, in proportion to each other.
DRAWN = 60.0
LOOPS = 20.0
# So many loops are run even where drawn cases take little time: one with every step, and a long run
# of each kind; fewer where few cases are drawn, one for so many.
_LEAST_LOOPS = 4
_CASES_PER_LOOP = 50


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

    pace = Pace()

    def loops() -> Iterator[Item]:
        for loop in domain_loops(domain, seed, pace.long_run):
            yield Calls(loop, pace=pace)

    found = [Source("drawn", DRAWN, drawn(), most=max_examples)]
    if not compiled_geometries:
        least = min(_LEAST_LOOPS, max_examples // _CASES_PER_LOOP)
        # Each loop would be compiled for geometries of its own.
        found.append(Source("loops", LOOPS, loops(), least=least))
    return found
