"""Ways to show that a function is wrong without ``check``: on a case, or on a sequence of calls.

A function without such proof might be a dud, right by accident, and a miss of it no miss.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.function.load import ARGUMENTS, call_options
from harness.inputs import Inputs
from harness.oracle.budget import budget
from harness.oracle.error import measure
from harness.verdict import Problem

Function = Callable[..., Tensor]


class Shown(Protocol):
    """Says whether a function is wrong on ``case``, the text of a case or of the first of several.

    May change what the function changes in this process, so it is called in a fork."""

    @property
    def case(self) -> str:
        """The text of the case."""

    def __call__(self, function: Function) -> bool:
        """Whether the mistake shows."""


def call(function: Function, inputs: Inputs) -> Tensor:
    """The function's output for these tensors, as ``check`` calls it."""
    with torch.no_grad():
        return function(*(getattr(inputs, name) for name in ARGUMENTS), **call_options(inputs))


def is_wrong(output: Tensor, problem: Problem) -> bool:
    """Whether an output is malformed or beyond the budget of plain float32 arithmetic."""
    gold = problem.golden
    if output.shape != gold.output.shape or output.dtype != problem.inputs.query.dtype:
        return True
    bound = budget(problem.inputs, gold)
    return not measure(output.detach(), gold.output, bound.output).utilisation <= 1


def problem_of(text: str) -> Problem:
    """The problem of a case's text."""
    return Problem.of(DecodeCase.from_text(text))


@dataclass(frozen=True)
class Once:
    """One call is wrong."""

    case: str

    def __call__(self, function: Function) -> bool:
        problem = problem_of(self.case)
        return is_wrong(call(function, problem.inputs.clone()), problem)


@dataclass(frozen=True)
class Raises:
    """One call raises, from a line whose function is called ``frame``."""

    case: str
    frame: str

    def __call__(self, function: Function) -> bool:
        try:
            call(function, problem_of(self.case).inputs.clone())
        except RuntimeError as error:
            return traceback.extract_tb(error.__traceback__)[-1].name == self.frame
        return False


@dataclass(frozen=True)
class Wider:
    """One call is wrong where ``tensor`` is a view of a buffer with wider rows, the rest NaN."""

    case: str
    tensor: str

    def __call__(self, function: Function) -> bool:
        problem = problem_of(self.case)
        tensors = {name: getattr(problem.inputs, name) for name in ARGUMENTS}
        tight = tensors[self.tensor]
        buffer = tight.new_full((*tight.shape[:-1], 2 * tight.size(-1)), math.nan)
        tensors[self.tensor] = buffer[..., : tight.size(-1)].copy_(tight)
        return is_wrong(function(*tensors.values()), problem)


@dataclass(frozen=True)
class InPlace:
    """The last of several calls is wrong. Between them each text of ``then`` changes the case, for
    instance "pos=6", and what the tensors hold is changed in place."""

    case: str
    then: tuple[str, ...]
    same_tensors = True

    def __call__(self, function: Function) -> bool:
        problem = problem_of(self.case)
        inputs = problem.inputs.clone()
        output, text = call(function, inputs), self.case
        for change in self.then:
            text = changed(text, change)
            problem = problem_of(text)
            if self.same_tensors:
                for name, tensor in inputs.tensors.items():
                    tensor.copy_(problem.inputs.tensors[name])
            else:
                inputs = problem.inputs.clone()
            output = call(function, inputs)
        return is_wrong(output, problem)


@dataclass(frozen=True)
class InTurn(InPlace):
    """The last of several calls is wrong, each with tensors of its own."""

    same_tensors = False


def changed(text: str, change: str) -> str:
    """A case's text with other values for the keys that ``change`` names."""
    pairs = dict(pair.split("=", 1) for pair in f"{text},{change}".split(","))
    return ",".join(f"{name}={value}" for name, value in pairs.items())


def growing(case: str, steps: int) -> InPlace:
    """A decode loop: ``steps`` further calls, each one position on."""
    position = int(dict(pair.split("=", 1) for pair in case.split(","))["pos"])
    return InPlace(case, tuple(f"pos={position + i + 1}" for i in range(steps)))


@dataclass(frozen=True)
class Repeated:
    """Among ``calls`` equal calls some give other bits."""

    case: str
    calls: int

    def __call__(self, function: Function) -> bool:
        inputs = problem_of(self.case).inputs.clone()
        first = call(function, inputs).clone()
        return any(not torch.equal(first, call(function, inputs)) for _ in range(self.calls))


def exact_share(output: Tensor, problem: Problem) -> float:
    """The share of elements that equal golden rounded once to the output's dtype."""
    return (output == problem.golden.output.to(output.dtype)).double().mean().item()


@dataclass(frozen=True)
class LessExact:
    """Fewer elements equal golden rounded once than of ``twin``, which has the arithmetic that is
    declared."""

    case: str
    twin: Function

    def __call__(self, function: Function) -> bool:
        problem = problem_of(self.case)
        share, twin = (
            exact_share(call(f, problem.inputs.clone()), problem) for f in (function, self.twin)
        )
        return math.isfinite(share) and share < twin
