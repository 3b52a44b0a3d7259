"""How a path gets the tensors of a problem, such that whatever it does to them the problem stays as
it is: copies, or, where copies would take much memory, the tensors themselves."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.inputs import Inputs, make_inputs, redraw, with_tail
from harness.verdict.judgement import Finding, Problem, Verdict

# Caches of more bytes are handed over themselves. Checksums tell whether a path has changed them;
# if so, they are drawn again.
IN_PLACE_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Handed(ABC):
    """What a path gets for one run, ``inputs``, of which it may change every bit."""

    inputs: Inputs

    @functools.cached_property
    @abstractmethod
    def changed(self) -> list[str]:
        """The names of the tensors that the run has changed."""

    def mutations(self) -> list[Finding]:
        """A finding for each input tensor whose bits the run has changed."""
        return [Finding(Verdict.MUTATED, f"changed its input {name}") for name in self.changed]


@dataclasses.dataclass(frozen=True)
class _Copies(Handed):
    before: Inputs

    @functools.cached_property
    def changed(self) -> list[str]:
        return changed_tensors(self.before, self.inputs)


@dataclasses.dataclass(frozen=True)
class _InPlace(Handed):
    problem: Problem

    @functools.cached_property
    def changed(self) -> list[str]:
        """Of the caches, whose shape and strides are the path's own, the bits; of others all."""
        before, after = self.problem.inputs.tensors, self.inputs.tensors
        sums, now = self.problem.checksums, self.problem.inputs.checksums()
        return [
            name
            for name, tensor in after.items()
            if (sums[name] != now[name] if name in sums else not same_bits(before[name], tensor))
        ]


@contextmanager
def handed(problem: Problem, device: str) -> Iterator[Handed]:
    """The problem's tensors for one run of a path, which are the path's own in this context."""
    if not in_place(problem, device):
        before = problem.inputs.to(device)
        yield _Copies(before.clone(), before)
        return
    _ = problem.checksums  # of what they are before the run
    given = _InPlace(_views(problem.inputs), problem)
    try:
        yield given
    finally:
        if given.changed:
            redraw(problem.inputs)


@contextmanager
def with_other_tail(problem: Problem, device: str) -> Iterator[Inputs]:
    """As ``handed``, with the tail that is to show whether a path reads it."""
    case, other = problem.case, problem.case.tail_kind.other
    if not in_place(problem, device):
        drawn = problem.inputs.tail_draws is not None
        yield (
            with_tail(problem.inputs.to(device).clone(), other)
            if drawn
            else make_inputs(case.replace(tail=other)).to(device)
        )
        return
    sums = problem.checksums
    try:
        yield _views(with_tail(problem.inputs, other))
    finally:
        with_tail(dataclasses.replace(problem.inputs, case=case.replace(tail=other)), case.tail)
        if problem.inputs.checksums() != sums:
            redraw(problem.inputs)


def in_place(problem: Problem, device: str) -> bool:
    """Whether a path gets the problem's own caches."""
    inputs = problem.inputs
    large = inputs.key_buffer.nbytes + inputs.value_buffer.nbytes > IN_PLACE_BYTES
    return large and inputs.tail_draws is not None and torch.device(device).type == "cpu"


def _views(inputs: Inputs) -> Inputs:
    """The caches in tensors of their own on the same memory, and copies of all else."""
    caches = inputs.key_buffer, inputs.value_buffer
    return inputs.with_tensors(
        lambda tensor: tensor.detach() if any(tensor is x for x in caches) else tensor.clone()
    )


def changed_tensors(before: Inputs, after: Inputs) -> list[str]:
    """The names of the tensors whose bits differ."""
    return [
        name
        for name, tensor in after.tensors.items()
        if not same_bits(before.tensors[name], tensor)
    ]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bits in the same order."""
    # A tensor without dims has no view of its bytes.
    first, second = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(first, second)
