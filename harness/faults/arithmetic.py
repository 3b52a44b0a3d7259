"""Fault models of heads, scale and logsumexp: classes 28 to 30 and 32."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from harness.faults.fault import FaultKind, Register
from harness.faults.model import Attention, Weights

fault = Register()


def _kv_heads(a: Attention, kv_head: Tensor) -> Attention | None:
    """A copy whose query heads use the KV heads ``kv_head`` ``[H]``; None without GQA."""
    group = a.case.heads // a.case.kv_heads
    if group == 1:
        return None
    index = kv_head * group
    return a.but(key=a.key[:, index], value=a.value[:, index])


@fault(
    28,
    "query head h uses KV head h % Hkv instead of h // group",
    "heads of a group lie side by side",
    "grouped-query attention; flash-attention PR#2528",
)
def group_map_modulo(a: Attention) -> Attention | None:
    return _kv_heads(a, torch.arange(a.case.heads) % a.case.kv_heads)


@fault(
    28,
    "only the first query head of a packed group uses its KV head, the others the next one",
    "all rows of a pack share one KV head",
    "flash-attention PR#2528",
)
def group_right_for_first_row(a: Attention) -> Attention | None:
    head, group = torch.arange(a.case.heads), a.case.heads // a.case.kv_heads
    return _kv_heads(a, (head // group + (head % group > 0)) % a.case.kv_heads)


@fault(
    29,
    "head-dependent score_mods are indexed by the KV head",
    "h in a score_mod is the query head",
    "intel-xpu-backend-for-triton#3632",
)
def score_by_kv_head(a: Attention) -> Attention | None:
    return a.but(score_head=a.score_head // (a.case.heads // a.case.kv_heads))


@fault(30, "the scale is applied twice", "scale once", "no public report known")
def scale_twice(a: Attention) -> Attention | None:
    return a.but(scale=a.scale**2)


@fault(30, "the scale is missing", "scale by 1 / sqrt(D)", "no public report known")
def scale_missing(a: Attention) -> Attention | None:
    return a.but(scale=1.0)


@fault(
    30,
    "the scale is of the padded head_dim (the next power of two)",
    "pass scale=1 / sqrt(D) of the unpadded D",
    "no public report known",
)
def scale_of_padded_dim(a: Attention) -> Attention | None:
    padded = 2 ** math.ceil(math.log2(a.case.head_dim))
    return a.but(scale=padded**-0.5) if a.case.scale is None else None


@fault(
    30,
    "the scale is of the value's head_dim",
    "scale by the query's head_dim",
    "no public report known",
)
def scale_of_value_dim(a: Attention) -> Attention | None:
    return a.but(scale=a.case.value_dim**-0.5) if a.case.scale is None else None


@fault(30, "a given scale is ignored", "pass scale on", "no public report known")
def given_scale_ignored(a: Attention) -> Attention | None:
    return a.but(scale=a.case.head_dim**-0.5) if a.case.scale is not None else None


@fault(30, "the scale is 1 % off", "compute it in full precision", "no public report known")
def scale_one_percent_off(a: Attention) -> Attention | None:
    return a.but(scale=a.scale * 1.01)


@fault(
    30,
    "the scale is applied after the score_mods",
    "scale q . k first, then softcap and biases",
    "transformers PR#41083",
)
def scale_after_score_mods(a: Attention) -> Attention | None:
    if all(kind.column for kind in a.case.score_kinds):
        return None
    return a.but(scores=lambda inner: a.scores(inner.but(scale=1.0)) * a.scale)


def _logsumexp(a: Attention, change: Callable[[Tensor], Tensor]) -> Attention:
    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = a.normalise(inner, s)
        return weights, change(logsumexp)

    return a.but(normalise=normalise)


@fault(
    32,
    "logsumexp is in base 2",
    "multiply by ln 2 before returning it",
    "sglang#40903, vllm PR#47079",
    FaultKind.AUXILIARY,
)
def logsumexp_base_two(a: Attention) -> Attention | None:
    return _logsumexp(a, lambda x: x / math.log(2))


@fault(
    32,
    "logsumexp is off by ln 2",
    "add the maximum in the same base as the logarithm",
    "flash-attention PR#2573",
    FaultKind.AUXILIARY,
)
def logsumexp_off_by_ln_two(a: Attention) -> Attention | None:
    return _logsumexp(a, lambda x: x + math.log(2))


@fault(
    32,
    "logsumexp of a row with nothing to attend is 0 instead of -inf",
    "log(0) is -inf: a merge then drops the row",
    "flash-attention PR#2573",
    FaultKind.AUXILIARY,
)
def logsumexp_zero_when_empty(a: Attention) -> Attention | None:
    return _logsumexp(a, lambda x: x.masked_fill(x == -math.inf, 0.0))
