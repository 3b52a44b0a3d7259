"""Explanation: the diagnosis of a user's function, of whose kernel no block size is known."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator

import torch

from harness.case import DecodeCase
from harness.diagnosis.diagnosis import Diagnosis, diagnose
from harness.diagnosis.smaller import fits_dense_model
from harness.paths import Path
from harness.verdict import Problem

# The sizes of blocks in which a kernel may go through the cache, the likeliest first.
BLOCKS = (128, 64, 32, 16, 256)
FURTHER = 200  # cases that tell faults apart


def explain(
    path: Path,
    problem: Problem,
    device: str,
    blocks: Iterable[int] = BLOCKS,
    further: Callable[[], Iterable[DecodeCase]] = tuple,
) -> tuple[Diagnosis, int | None]:
    """The diagnosis of a path that failed on a problem, with the block size at which a fault was
    found, None where none was.

    Args:
        blocks: the block sizes to try, one after the other, since faults at block edges depend on
            them. None at all stands for the problem's own.
        further: gives more cases that the path supports.
    """
    sizes = [(block, block) for block in blocks] or [problem.case.block_size]
    found = Diagnosis((), ())
    with _one_thread():
        for size in sizes:
            inputs = dataclasses.replace(problem.inputs, case=problem.case.replace(block_size=size))
            blocked = dataclasses.replace(problem, case=inputs.case, inputs=inputs)
            others = (case.replace(block_size=size) for case in further())
            diagnosis = diagnose(path, blocked, device, others)
            found = found if found.evidence else diagnosis
            if diagnosis.names or not fits_dense_model(problem.case):
                return diagnosis, size[1] if diagnosis.names else None
    return found, None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """With many tiny tensors, threads that wait for each other would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
