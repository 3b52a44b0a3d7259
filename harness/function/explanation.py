"""Explanation: the diagnosis of a user's function, of whose kernel no block size is known."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.diagnosis.diagnosis import Diagnosis, diagnose
from harness.diagnosis.smaller import fits_dense_model
from harness.paths import Path
from harness.strategies.drawing import domain_cases
from harness.support.threads import one_thread
from harness.verdict import Problem

# The sizes of blocks in which a kernel may go through the cache, the likeliest first.
BLOCKS = (128, 64, 32, 16, 256)
FURTHER = 200  # cases that tell faults apart


def further_cases(domain: Domain) -> list[DecodeCase]:
    """Drawn cases of a domain, which tell faults apart."""
    return list(itertools.islice(domain_cases(domain, 0), FURTHER))


def explain(
    path: Path,
    problem: Problem,
    device: str,
    blocks: Iterable[int] = BLOCKS,
    further: Callable[[], Iterable[DecodeCase]] = tuple,
    *,
    names_alone: bool = False,
) -> tuple[Diagnosis, int | None]:
    """The diagnosis of a path that failed on a problem, with the block size at which a fault was
    found, None where none was.

    Args:
        blocks: the block sizes to try, one after the other, since faults at block edges depend on
            them. None at all stands for the problem's own.
        further: gives more cases that the path supports.
        names_alone: where no fault explains it, say nothing else.
    """
    sizes = [(block, block) for block in blocks] or [problem.case.block_size]
    found = Diagnosis((), ())
    with one_thread():
        for size in sizes:
            inputs = dataclasses.replace(problem.inputs, case=problem.case.replace(block_size=size))
            blocked = dataclasses.replace(problem, case=inputs.case, inputs=inputs)
            others = (case.replace(block_size=size) for case in further())
            # Where it is wrong is said once, whatever the block size.
            brief = names_alone or bool(found.evidence)
            diagnosis = diagnose(path, blocked, device, others, names_alone=brief)
            found = found if found.evidence else diagnosis
            if diagnosis.names or not fits_dense_model(problem.case):
                return diagnosis, size[1] if diagnosis.names else None
    return found, None
