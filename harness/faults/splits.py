"""Fault models of split-KV decoding: class 20, and one of 32.

Eager FlexAttention has no splits, so it cannot show them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention, Weights
from harness.verdict.known_failures import LOG_TINY

fault = Register()

Merge = Callable[[Tensor, Tensor, Tensor], Tensor]


def splits(a: Attention) -> Tensor:
    """The split of each slot, int64 ``[S]``: 0 in the first half of the buffer, 1 in the second."""
    return (a.slot >= (a.case.cache_len + 1) // 2).long()


def merged(a: Attention, merge: Merge) -> Attention:
    """A copy whose weights are computed in two splits and merged.

    ``merge`` gets the splits' largest scores, sums and logsumexps, each ``[B, H, Q, 2]``, and gives
    the factor on each split's normalised weights. A logit without a value enters the denominator
    after the merge, as a factor on all weights."""
    member = torch.nn.functional.one_hot(splits(a), 2).bool()

    def normalise(inner: Attention, s: Tensor) -> Weights:
        s = s.masked_fill(~inner.allowed, -math.inf)
        parts = s[..., None, :].masked_fill(~member.mT, -math.inf)
        logsumexp = parts.logsumexp(-1)
        highest = parts.amax(-1)
        sums = (logsumexp - highest).exp().nan_to_num(0.0)
        share = merge(highest, sums, logsumexp)
        within = (parts - logsumexp.nan_to_num(neginf=0.0)[..., None]).exp()
        weights, total = (within * share[..., None]).sum(-2), logsumexp.logsumexp(-1)
        if inner.column is None:
            return weights, total
        logit = inner.column[inner.score_head][:, None].expand_as(total)
        with_logit = torch.logaddexp(total, logit).masked_fill(total == -math.inf, -math.inf)
        return weights * torch.sigmoid(total - logit)[..., None], with_logit

    return a.but(normalise=normalise) if a.case.cache_len > 1 else a


def _shares(logsumexp: Tensor, power: Callable[[Tensor], Tensor] = torch.exp) -> Tensor:
    """The splits' sums over that of the largest, 0 where nothing is attended."""
    return power(logsumexp - logsumexp.amax(-1, keepdim=True)).nan_to_num(0.0)


def _normalised(share: Tensor) -> Tensor:
    total = share.sum(-1, keepdim=True)
    return share / total.masked_fill(total == 0, 1.0)


@fault(
    20,
    "a split with nothing to attend counts with maximum 0: rows whose scores are all far below"
    " it vanish",
    "give an empty split the maximum -inf in the combine",
    "flash-attention#778; pytorch PR#134650; flexcpu-split-partition-max in FINDINGS.md",
)
def empty_split_maximum_zero(a: Attention) -> Attention | None:
    def merge(highest: Tensor, sums: Tensor, logsumexp: Tensor) -> Tensor:
        empty = highest == -math.inf
        underflows = empty.any(-1) & (highest.amax(-1) < LOG_TINY) & ~empty.all(-1)
        share = _normalised(_shares(logsumexp))
        return share.masked_fill(underflows[..., None], math.nan)

    return merged(a, merge)


@fault(
    20,
    "the splits' partial results are not rescaled to a common maximum",
    "weigh each split by exp(max - global max) * sum",
    "flash-attention PR#1085",
)
def splits_not_rescaled(a: Attention) -> Attention | None:
    return merged(a, lambda highest, sums, logsumexp: _normalised(sums))


@fault(
    20,
    "the last split is dropped",
    "merge all splits",
    "flash-attention#778",
)
def last_split_dropped(a: Attention) -> Attention | None:
    return a.mask(a.allowed & (splits(a) == 0))


@fault(
    20,
    "the splits are those of the first sequence's length: later slots of longer ones are dropped",
    "split each sequence by its own length",
    "flash-attention#778",
)
def splits_of_first_sequence(a: Attention) -> Attention | None:
    """Two splits of a size, so that the second may reach one slot further."""
    if a.case.batch < 2:
        return None
    length = (a.position[:1, :, -1:] + 1).clamp(min=0)
    return a.mask(a.allowed & (a.slot < 2 * ((length + 1) // 2)))


@fault(
    20,
    "the first split is counted twice",
    "merge each split once",
    "flash-attention#778",
)
def first_split_twice(a: Attention) -> Attention | None:
    def merge(highest: Tensor, sums: Tensor, logsumexp: Tensor) -> Tensor:
        share = _shares(logsumexp)
        return _normalised(share * torch.tensor([2.0, 1.0], dtype=share.dtype))

    return merged(a, merge)


@fault(
    32,
    "the splits' logsumexps are merged in base 2, though they are natural",
    "merge in the base that the kernel returns",
    "sglang#40903, vllm PR#47079, flash-attention PR#2573",
)
def splits_merged_in_base_two(a: Attention) -> Attention | None:
    return merged(a, lambda highest, sums, logsumexp: _normalised(_shares(logsumexp, torch.exp2)))


EIGHT = 8  # splits, as many as a kernel with room for so many merges


@fault(
    20,
    "a ninth split is dropped: the merge has room for eight",
    "merge as many splits as were made",
    "flash-attention#778",
)
def ninth_split_dropped(a: Attention) -> Attention | None:
    """The buffer is split by KV blocks, one block to a split."""
    return a.mask(a.allowed & (a.block != EIGHT))
