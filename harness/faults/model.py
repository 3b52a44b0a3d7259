"""The dense model of a decode call, behind ``harness.faults``: a fault changes one of its steps.

In float32 the model is a path like any other, sound or a mutant; in float64 it gives predictions,
what a fault would put out. Unlike the oracle it reads the whole buffer with the tail.

It states the score_mods for itself. ``harness.oracle.golden``, ``harness.paths.masks`` and
``harness.case.scores`` (scripts) state them again; these statements share no code, so that a
mistake in one shows as a disagreement with the others, here as a false alarm. The visible slots are
those of the oracle's rule, ``harness.case.visible``, since faults of the mask are changes of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase, stated
from harness.case.visible import visible
from harness.inputs import Inputs

Weights = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Attention:
    """One decode call over all slots; heads are query heads, keys and values repeated for each.

    ``query`` ``[B, H, Q, D]``, ``key`` ``[B, H, S, D]``, ``value`` ``[B, H, S, Dv]``, in the
    precision of the arithmetic; ``position`` int64 ``[B, 1, Q, 1]`` of each query token; ``slot``
    int64 ``[S]``; ``allowed`` bool ``[B, 1 or H, Q, S]``; ``distance`` int64 ``[B, 1, Q, S]``, what
    the score_mods take for position - slot; ``score_head`` int64 ``[H]``, the head whose slope and
    bias each head uses; ``column`` ``[H]`` the logit without a value in each head's softmax, None
    where there is none. ``scores`` gives ``[B, H, Q, S]`` before the mask, ``normalise`` the
    weights ``[B, H, Q, S]`` and the logsumexp ``[B, H, Q]``, ``combine`` the output. ``unsure``,
    ``[B, H, Q, S]``, says how far scores that are rounded on purpose may be off.
    """

    inputs: Inputs
    query: Tensor
    key: Tensor
    value: Tensor
    position: Tensor
    slot: Tensor
    allowed: Tensor
    distance: Tensor
    score_head: Tensor
    column: Tensor | None
    scale: float
    scores: Callable[[Attention], Tensor]
    normalise: Callable[[Attention, Tensor], Weights]
    combine: Callable[[Attention, Tensor], Tensor]
    unsure: Callable[[Attention], Tensor] | None = None

    @classmethod
    def of(cls, inputs: Inputs, dtype: torch.dtype) -> Attention:
        """The sound call on these inputs (on the CPU), in arithmetic of this dtype."""
        case = inputs.case
        kv_head = torch.arange(case.heads) // (case.heads // case.kv_heads)
        start = inputs.input_pos.view(-1, 1, 1, 1)
        position = start + torch.arange(case.q_len).view(1, 1, -1, 1)
        slot = torch.arange(case.cache_len)
        return cls(
            inputs=inputs,
            query=inputs.query.to(dtype),
            key=inputs.key_cache[:, kv_head].to(dtype),
            value=inputs.value_cache[:, kv_head].to(dtype),
            position=position,
            slot=slot,
            allowed=visible(case, position, slot) & (start >= 0),
            distance=position - slot,
            score_head=torch.arange(case.heads),
            column=None if (column := inputs.column()) is None else column.to(dtype),
            scale=case.softmax_scale,
            scores=scores,
            normalise=softmax,
            combine=weighted_sum,
        )

    @property
    def case(self) -> DecodeCase:
        """The case of the inputs."""
        return self.inputs.case

    @property
    def live(self) -> Tensor:
        """Which sequences are not idle, bool ``[B, 1, 1, 1]``."""
        return self.inputs.input_pos.view(-1, 1, 1, 1) >= 0

    @property
    def token(self) -> Tensor:
        """Int64 ``[1, 1, Q, 1]``: the query token's number in this call."""
        return torch.arange(self.case.q_len).view(1, 1, -1, 1)

    @property
    def block(self) -> Tensor:
        """Int64 ``[S]``: the KV block of each slot."""
        return self.slot.div(self.case.block_size[1], rounding_mode="floor")

    @property
    def current_block(self) -> Tensor:
        """Int64 ``[B, 1, 1, 1]``: the block of each sequence's newest slot."""
        return self.position[:, :, -1:] // self.case.block_size[1]

    def listed(self, mask: Tensor) -> Tensor:
        """The KV blocks of which a mask ``[..., S]`` has any slot, bool ``[..., blocks]``."""
        size = self.case.block_size[1]
        padded = torch.nn.functional.pad(mask, (0, -self.case.cache_len % size))
        return padded.unflatten(-1, (-1, size)).any(-1)

    def visible(self, position: Tensor, **changed: int | Tensor) -> Tensor:
        """The slots that live sequences would attend at other positions, or with other arguments
        of the mask, bool ``[B, 1, Q, S]``."""
        return visible(self.case, position, self.slot, **changed) & self.live

    def but(self, **changes: object) -> Attention:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def mask(self, allowed: Tensor) -> Attention:
        """A copy in which live sequences attend the slots ``allowed`` instead, others nothing."""
        return self.but(allowed=allowed & self.live)

    def take_heads(self, heads: list[int]) -> Attention:
        """A copy with only these query heads."""
        allowed = self.allowed if self.allowed.size(1) == 1 else self.allowed[:, heads]
        return self.but(
            query=self.query[:, heads],
            key=self.key[:, heads],
            value=self.value[:, heads],
            allowed=allowed,
            score_head=self.score_head[heads],
        )

    def run(self) -> tuple[Tensor, Tensor]:
        """The output ``[B, H, Q, Dv]`` and the logsumexp ``[B, H, Q]``, in the model's dtype."""
        weights, logsumexp = self.normalise(self, self.scores(self))
        return self.combine(self, weights), logsumexp


def products(a: Attention) -> Tensor:
    """q . k times the scale, ``[B, H, Q, S]``."""
    return a.query @ a.key.mT * a.scale


def _softcap(a: Attention, s: Tensor, softcap: int) -> Tensor:
    return softcap * torch.tanh(s / softcap)


def _alibi(a: Attention, s: Tensor) -> Tensor:
    slopes = a.inputs.parameter("alibi")[a.score_head].to(s.dtype)
    return s - slopes[:, None, None] * a.distance


def _bias(a: Attention, s: Tensor, bias: int) -> Tensor:
    index = a.distance.clamp(0, bias - 1).expand_as(s)
    table = a.inputs.parameter("bias")[a.score_head].to(s.dtype)
    return s + table[None, :, None].expand(*s.shape[:3], -1).gather(-1, index)


def _shift(a: Attention, s: Tensor, shift: int) -> Tensor:
    return s + shift


# The module's docstring says where the score_mods are stated again, and why.
_SCORE_MODS: dict[str, Callable[..., Tensor]] = {
    "softcap": _softcap,
    "alibi": _alibi,
    "bias": _bias,
    "shift": _shift,
    "sink": lambda a, s: s,  # The logit enters in ``softmax``.
}


def score_mods(a: Attention, s: Tensor) -> Tensor:
    """The scores ``[B, H, Q, S]`` after the case's score_mods."""
    for name, arguments in a.case.scores.items():
        s = stated(_SCORE_MODS, name, "the dense model's score_mods")(a, s, **arguments)
    return s


def scores(a: Attention) -> Tensor:
    """Scores before the mask, ``[B, H, Q, S]``."""
    return score_mods(a, products(a))


def softmax(a: Attention, s: Tensor) -> Weights:
    """Masked softmax; a row with nothing to attend has weights 0 and logsumexp -inf."""
    s = s.masked_fill(~a.allowed, -math.inf)
    highest = s.amax(-1, keepdim=True)
    empty = highest == -math.inf
    if a.column is not None:
        logit = a.column[a.score_head][:, None, None].expand_as(highest)
        highest = torch.maximum(highest, logit).masked_fill(empty, -math.inf)
    p = torch.exp(s - highest.nan_to_num(nan=math.nan, neginf=0.0))
    total = p.sum(-1, keepdim=True)
    if a.column is not None:
        total = total + torch.exp(logit - highest).masked_fill(empty, 0.0)
    weights = p / total.masked_fill(total == 0, 1.0)
    return weights, (highest + total.log()).squeeze(-1)


def weighted_sum(a: Attention, weights: Tensor) -> Tensor:
    """The output ``[B, H, Q, Dv]``: the weighted sum of the values, where a slot of weight 0 adds
    nothing, even if it holds NaN."""
    finite = a.value.isfinite()
    if finite.all():
        return weights @ a.value
    spoilt = weights.ne(0).to(weights.dtype) @ (~finite).to(weights.dtype) > 0
    return (weights @ torch.where(finite, a.value, 0.0)).masked_fill(spoilt, math.nan)
