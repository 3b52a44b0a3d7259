"""Fault models of the softmax itself: class 45."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention, Weights, softmax
from harness.verdict.known_failures import LOG_TINY

fault = Register()

EPSILON = 1e-5
LOG_LARGEST = math.log(torch.finfo(torch.float32).max)


def _highest(a: Attention, s: Tensor) -> Tensor:
    """The largest score that each row attends, -inf in one that attends nothing."""
    return s.masked_fill(~a.allowed, -math.inf).amax(-1)


@fault(
    45,
    "the maximum is not subtracted before exp: high scores overflow, low ones vanish",
    "subtract the largest score of the row",
    "any softmax written by hand; Milakov and Gimelshein 2018",
)
def no_maximum_subtracted(a: Attention) -> Attention | None:
    """In float32, whatever the arithmetic of the model: exp overflows there, and not in float64."""

    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = a.normalise(inner, s)
        highest = _highest(inner, s)
        lost = (highest > LOG_LARGEST) | ((highest < LOG_TINY) & highest.isfinite())
        return weights.masked_fill(lost[..., None], math.nan), logsumexp

    return a.but(normalise=normalise)


@fault(
    45,
    "a KV block's weights are taken with the maximum of the blocks before it",
    "take the new maximum before the block's weights",
    "the recurrence of FlashAttention, Dao et al. 2022, algorithm 1",
)
def maximum_of_previous_block(a: Attention) -> Attention | None:
    """In effect each block's weights grow by how much it raises the maximum."""
    if a.column is not None:
        return None

    def normalise(inner: Attention, s: Tensor) -> Weights:
        s = s.masked_fill(~inner.allowed, -math.inf)
        size = inner.case.block_size[1]
        padded = torch.nn.functional.pad(s, (0, -s.size(-1) % size), value=-math.inf)
        running = padded.unflatten(-1, (-1, size)).amax(-1).cummax(-1).values
        before = torch.nn.functional.pad(running[..., :-1], (1, 0), value=-math.inf)
        raised = torch.where(before == -math.inf, 0.0, running - before)
        return softmax(inner, s + raised[..., inner.block])

    return a.but(normalise=normalise)


@fault(
    45,
    f"{EPSILON:g} is added to the softmax's denominator",
    "leave it out: the denominator is at least 1",
    "any division guarded by hand",
    dtypes=("float32",),
)
def epsilon_in_denominator(a: Attention) -> Attention | None:
    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = a.normalise(inner, s)
        # The denominator of weights relative to the largest score.
        total = (logsumexp - _highest(inner, s)).exp().nan_to_num(1.0)
        return weights * (total / (total + EPSILON))[..., None], logsumexp

    return a.but(normalise=normalise)
