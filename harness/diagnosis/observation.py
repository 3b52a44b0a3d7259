"""Observations: what a path put out on a case and on variations of it, for a diagnosis."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.region import regions
from harness.faults import FaultKind
from harness.faults.model import Attention
from harness.oracle.budget import Budget
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, judgeable, malformed

BIG = 2**21  # elements of a key cache on which few further calls are made
KEPT_ELEMENTS = 2**18  # of the key cache of an observation whose dense model is kept


@dataclass(frozen=True)
class Comparison:
    """A fault's prediction beside an observation that it explains: the ``regions`` of rows, bool
    ``[regions]``, in which it may be, how many wrong rows it explains, and in how many of them the
    prediction is ``shown`` to differ from the right result."""

    regions: Tensor
    explained: int
    shown: int


@dataclass(frozen=True)
class Observation:
    """What a path returned on one problem, on the CPU, in float64.

    ``wrong_output`` and ``wrong_logsumexp``, bool ``[B, H, Q]``, are the rows whose output or
    logsumexp is further from golden than the budget ``bound``. ``compared`` has what was compared
    before, by fault and kind; None where the fault does not explain it."""

    problem: Problem
    result: Result
    bound: Budget
    wrong_output: Tensor
    wrong_logsumexp: Tensor
    compared: dict[tuple[str, FaultKind], Comparison | None] = field(default_factory=dict)

    @functools.cached_property
    def sound(self) -> Attention:
        """The dense model of the sound call on the same inputs, in float64."""
        return Attention.of(self.problem.inputs, torch.float64)

    @functools.cached_property
    def regions(self) -> Tensor:
        """The rows of each region, bool ``[regions, B, H, Q]``."""
        return regions(self.problem.case)

    def release(self) -> None:
        """Forget the dense model where it takes much memory; it is made again where needed."""
        if self.problem.inputs.key_cache.numel() > KEPT_ELEMENTS:
            self.__dict__.pop("sound", None)

    def wrong(self, kind: FaultKind) -> Tensor:
        """The wrong rows, bool ``[B, H, Q]``, of what a kind of fault shows in: the logsumexp for
        auxiliary faults, else the output."""
        return self.wrong_logsumexp if kind is FaultKind.AUXILIARY else self.wrong_output


class Observer:
    """Runs a path on cases, on each once."""

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self._seen: dict[DecodeCase, list[Observation]] = {}

    def case(self, case: DecodeCase) -> list[Observation]:
        """The observation of a case, or an empty list where the path does not take the case, where
        no implementation can be judged on it, or where the path raised or returned something
        malformed."""
        if case not in self._seen:
            runs = not self.path.unsupported(case, self.device)
            found = (self._observe(p) for p in judgeable([case])) if runs else ()
            self._seen[case] = [observation for observation in found if observation is not None]
        return self._seen[case]

    def problem(self, problem: Problem) -> Observation | None:
        """The observation of one problem; None where the path raised or its result is malformed."""
        if problem.case not in self._seen:
            found = self._observe(problem)
            self._seen[problem.case] = [] if found is None else [found]
        return next(iter(self._seen[problem.case]), None)

    def _observe(self, problem: Problem) -> Observation | None:
        return observe(self.path, problem, self.device)


def observe(path: Path, problem: Problem, device: str) -> Observation | None:
    """Run the path on the problem; None where it raised, or where its result is malformed."""
    with handed(problem, device) as given:
        result = attempt(path, given.inputs)
        if not isinstance(result, Result) or malformed(given.inputs, result):
            return None
        logsumexp = None if result.logsumexp is None else result.logsumexp.cpu().double()
        result = Result(result.output.cpu().double(), logsumexp)
    bound = problem.bound(path.precision, tensor_cores=device != "cpu")
    gold = problem.golden
    wrong = ~within(result.output, gold.output, bound.output)
    wrong_logsumexp = torch.zeros_like(wrong)
    if logsumexp is not None:
        wrong_logsumexp = ~equal(logsumexp, gold.logsumexp, bound.logsumexp)
    return Observation(problem, result, bound, wrong, wrong_logsumexp)


def equal(actual: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """Whether elements are the same, both NaN, or within the bounds ``allowed``; elementwise."""
    same = (actual == wanted) | (actual.isnan() & wanted.isnan())
    return same | ((actual - wanted).abs() <= allowed)


def within(actual: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """The rows, bool ``[B, H, Q]``, all of whose elements ``[B, H, Q, Dv]`` are ``equal``."""
    return equal(actual, wanted, allowed).all(-1)
