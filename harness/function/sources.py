"""The sources of a search, each with its share of the time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.function.calls import Calls, Pace
from harness.function.drawing import Drawing
from harness.function.item import Item, Single
from harness.function.production import SHAPES, production_cases
from harness.function.schedule import Source
from harness.function.speed import Speed
from harness.strategies.drawing import FREE, LARGE, MEDIUM, SMALL, domain_cases
from harness.strategies.loops import domain_loops
from harness.strategies.precision import precision_cases

# Of the time of a search, in proportion to each other.
DRAWN, LOOPS, PRODUCTION, PRECISION = 60.0, 20.0, 20.0, 10.0
# Simple failures are found on small cases, which are easier to explain: those are run first.
_AFTER = 30
# A production shape of which no time can be estimated yet is run at a fraction of its slots first.
_FRACTION = 8
# So many loops are run even where drawn cases take little time: one with every step, and a long run
# of each kind; fewer where few cases are drawn, one for so many.
_LEAST_LOOPS = 4
_CASES_PER_LOOP = 50
# Fewer cases than these are too few rows for a verdict on the precision in each dtype.
_LEAST_PRECISION = 24


@dataclass(frozen=True)
class Effort:
    """How much a search does.

    ``examples`` are the most drawn cases, each of which earns ``pace`` seconds for larger ones, or
    the time that it took where that is more; None runs each whatever it takes. At least so many
    cases of ``production`` shapes are run, of those that take at most ``seconds`` each."""

    examples: int
    pace: float | None
    production: int
    seconds: float


DEFAULT = Effort(200, 0.06, 2, 10.0)
THOROUGH = Effort(1000, 0.12, 6, 60.0)
# Calls that take seconds, whatever the sizes: those of a compiler, or of Triton's interpreter.
SLOW = Effort(40, None, 1, 60.0)


def sources(
    domain: Domain,
    seed: int,
    effort: Effort,
    *,
    compiled_geometries: int = 0,
    interpreted: bool = False,
) -> list[Source]:
    """The sources of a search over ``domain``; the first one bounds it.

    Args:
        seed: the same gives the same candidates in each source.
        compiled_geometries: if not 0, calls are compiled, for so many geometries.
        interpreted: whether kernels run in an interpreter, so that each row takes long.
    """
    speed = Speed()
    if effort.pace is None:
        limits = MEDIUM if compiled_geometries else SMALL
        cases = domain_cases(domain, seed, limits, compiled_geometries=compiled_geometries)
        drawing = Drawing(cases, lambda case: True, 0.0, speed)
    else:
        cases = domain_cases(domain, seed, LARGE)
        drawing = Drawing(cases, FREE.allow, effort.pace, speed)
    if compiled_geometries:
        # One geometry, since each takes seconds to compile.
        shapes = itertools.islice(production_cases(domain, seed, "compiled"), 1)
        production = Source("production", PRODUCTION, map(Single, shapes), least=1)
    else:
        production = Source(
            "production",
            PRODUCTION,
            _affordable(production_cases(domain, seed), speed, effort.seconds),
            least=effort.production,
            after=_AFTER,
            learn=lambda item, outcome, seconds: speed.learn(item.case, seconds),
        )
    drawn = Source("drawn", DRAWN, drawing, most=effort.examples, learn=drawing.learn)
    if compiled_geometries:
        # Each loop, and each case for the precision, would be compiled for a geometry of its own.
        return [drawn, production]
    least = min(_LEAST_LOOPS, effort.examples // _CASES_PER_LOOP)
    found = [drawn, Source("loops", LOOPS, _loops(domain, seed), least=least), production]
    if not interpreted:
        least = min(_LEAST_PRECISION, effort.examples)
        rows = map(Single, precision_cases(domain, seed))
        found.append(Source("precision", PRECISION, rows, least=least))
    return found


def _loops(domain: Domain, seed: int) -> Iterator[Item]:
    pace = Pace()
    for loop in domain_loops(domain, seed, pace.long_run):
        yield Calls(loop, pace=pace)


def _affordable(cases: Iterator[DecodeCase], speed: Speed, seconds: float) -> Iterator[Item]:
    """The cases that take at most so many seconds, until as many in a row take longer as there are
    shapes."""
    dear = 0
    for case in cases:
        while (estimate := speed.estimate(case)) is None:
            yield Single(_fraction(case, speed))
        dear = dear + 1 if estimate > seconds else 0
        if not dear:
            yield Single(case)
        elif dear == len(SHAPES):
            return


def _fraction(case: DecodeCase, speed: Speed) -> DecodeCase:
    """The case with fewer slots, so many that its time can be estimated, or else 64."""
    while case.cache_len > 64 and speed.estimate(case) is None:
        slots = max(64, case.cache_len // _FRACTION)
        positions = tuple(min(p // _FRACTION, slots - case.q_len) for p in case.input_pos)
        case = case.replace(cache_len=slots, input_pos=positions, probe="none", mask="causal")
    return case
