"""The sources of a search, each with its share of the time."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case.domain import Domain
from harness.function.calls import Calls, Pace
from harness.function.item import Item, Single
from harness.function.schedule import Source
from harness.strategies.functions import domain_cases
from harness.strategies.loops import domain_loops
from harness.strategies.precision import precision_cases

# Of the time of a search, in proportion to each other.
DRAWN = 60.0
LOOPS = 20.0
PRECISION = 10.0
# So many loops are run even where drawn cases take little time: one with every step, and a long run
# of each kind; fewer where few cases are drawn, one for so many.
_LEAST_LOOPS = 4
_CASES_PER_LOOP = 50
# Fewer cases than these are too few rows for a verdict on the precision in each dtype.
_LEAST_PRECISION = 24


def sources(
    domain: Domain,
    seed: int,
    max_examples: int,
    *,
    compiled_geometries: int = 0,
    interpreted: bool = False,
) -> list[Source]:
    """The sources of a search over ``domain``; the first one bounds it.

    Args:
        seed: the same gives the same items in each source.
        max_examples: the most drawn cases. The other sources get their share of the time that these
            take.
        compiled_geometries: if not 0, calls are compiled, for so many geometries.
        interpreted: whether kernels run in an interpreter, so that each row takes long.
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
    if not compiled_geometries and not interpreted:
        least = min(_LEAST_PRECISION, max_examples)
        # Each case would be a geometry of its own too, and takes long where its kernel is
        # interpreted.
        cases = map(Single, precision_cases(domain, seed))
        found.append(Source("precision", PRECISION, cases, least=least))
    return found
