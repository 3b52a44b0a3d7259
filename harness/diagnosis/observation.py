"""Observations: what a path put out on a case and on variations of it, for a diagnosis."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.region import regions
from harness.faults import FaultKind
from harness.faults.model import Attention
from harness.oracle.budget import Budget
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, judgeable, malformed

KEPT_ELEMENTS = 2**18  # of the key cache of an observation whose dense model is kept


@dataclass(frozen=True)
class Observation:
    """What a path returned on one problem, on the CPU, in float64.

    ``wrong_output`` and ``wrong_logsumexp``, bool ``[B, H, Q]``, are the rows whose output or
    logsumexp is further from golden than the budget ``bound``."""

    problem: Problem
    result: Result
    bound: Budget
    wrong_output: Tensor
    wrong_logsumexp: Tensor

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


def observe_case(path: Path, case: DecodeCase, device: str) -> list[Observation]:
    """The observation of one case, or an empty list where the path does not take the case, where
    no implementation can be judged on it, or where ``observe`` gives None."""
    if path.unsupported(case, device):
        return []
    observations = (observe(path, problem, device) for problem in judgeable([case]))
    return [observation for observation in observations if observation is not None]


def equal(actual: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """Whether elements are the same, both NaN, or within the bounds ``allowed``; elementwise."""
    same = (actual == wanted) | (actual.isnan() & wanted.isnan())
    return same | ((actual - wanted).abs() <= allowed)


def within(actual: Tensor, wanted: Tensor, allowed: Tensor) -> Tensor:
    """The rows, bool ``[B, H, Q]``, all of whose elements ``[B, H, Q, Dv]`` are ``equal``."""
    return equal(actual, wanted, allowed).all(-1)
