"""AttentionCall: one attention call of a model as it happened, and what float64 says of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.precision import Precision
from harness.inputs import Inputs
from harness.oracle.budget import Budget, budget
from harness.oracle.golden import Chunk, Golden

# Scores ``[B, Hq, Q, S]`` in float64 to the scores after a model's own changes (softcap, bias), and
# the sum of the absolute intermediate values of that.
ScoreMod = Callable[[Tensor], tuple[Tensor, Tensor | float]]


@dataclass(frozen=True)
class Expected:
    """What a call should compute, in float64: the softmax ``weights`` ``[B, Hq, Q, S]``, the
    ``exact`` output ``[B, Hq, Q, Dv]``, both 0 in rows with nothing to attend, and what gives the
    rounding ``budget`` of the output; ``harness.oracle.budget`` has the formula."""

    weights: Tensor
    exact: Tensor
    _bound: Callable[[], Tensor]

    @functools.cached_property
    def budget(self) -> Tensor:
        """The rounding budget, ``[B, Hq, Q, Dv]``.

        Raises:
            ValueError: for a dtype that has none, such as float64.
        """
        return self._bound()


@dataclass(frozen=True)
class AttentionCall:
    """One attention call: ``query`` ``[B, Hq, Q, D]``, ``key`` ``[B, Hkv, S, D]``, ``value``
    ``[B, Hkv, S, Dv]`` and ``output`` ``[B, Hq, Q, Dv]`` as they were, copied.

    ``visible``, bool ``[B, Hq, Q, S]``, is what its mask says. ``sink`` ``[Hq]`` are logits without
    a value. ``layer`` counts from 0. ``again(value)`` makes the same call with other values, which
    are of the same shape; it is None where the call is a part of compiled code. ``operator`` is the
    function of torch that computes it, ``sdpa`` or ``flex_attention``, where nothing but
    ``softcap`` and ``sink`` changes its scores, else "". ``named`` is what the model called.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    visible: Tensor
    scale: float
    again: Callable[[Tensor], Tensor] | None
    score_mod: ScoreMod | None = None
    sink: Tensor | None = None
    softcap: float | None = None
    operator: str = ""
    named: str = ""

    @property
    def group(self) -> int:
        """Query heads of each KV head."""
        return self.query.size(1) // self.key.size(1)

    def heads_of(self, cache: Tensor, heads: Tensor | None = None) -> Tensor:
        """Keys or values of each query head, float64 ``[B, Hq, S, ...]``; ``heads`` ``[Hq]`` names
        the KV head that each query head reads, by default ``h // group``."""
        if heads is None:
            return cache.double().repeat_interleave(self.group, 1)
        return cache.double()[:, heads]

    def _terms(self, heads: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score, product and intermediate of a ``Chunk``, float64 ``[B, Hq, Q, S]``, and the values
        ``[B, Hq, S, Dv]``, of all slots, each query head with a KV head of its own."""
        key, value = self.heads_of(self.key, heads), self.heads_of(self.value, heads)
        query = self.query.double()
        score = query @ key.mT * self.scale
        product = query.abs() @ key.abs().mT * abs(self.scale)
        intermediate: Tensor | float = 0.0
        if self.score_mod is not None:
            score, intermediate = self.score_mod(score)
        size = torch.zeros_like(score) + intermediate
        # A change of scores may hide slots as well.
        shown = self.visible & (score != -math.inf)
        score = score.masked_fill(~shown, -math.inf)
        # What lies in slots that no query attends may be anything, NaN included.
        value = value.masked_fill(~shown.any(dim=2).unsqueeze(-1), 0.0)
        product, size = (t.masked_fill(~shown, 0.0) for t in (product, size))
        return score, product, size, value

    def _logsumexp(self, score: Tensor) -> Tensor:
        if self.sink is not None:
            sink = self.sink.double().view(1, -1, 1, 1).expand(*score.shape[:3], 1)
            empty = (score == -math.inf).all(-1, keepdim=True)
            score = torch.cat([score, sink.masked_fill(empty, -math.inf)], -1)
        total = score.logsumexp(-1)
        return total.masked_fill(total == -math.inf, 0.0)

    def expected(self, precision: Precision | None = None, heads: Tensor | None = None) -> Expected:
        """What the call should compute, over the slots that its mask shows."""
        score, product, size, value = self._terms(heads)
        total = self._logsumexp(score)
        weights = (score - total.unsqueeze(-1)).exp()
        exact = weights @ value

        def bound() -> Tensor:
            empty = (score == -math.inf).all(-1)
            highest = score.amax(-1)
            if self.sink is not None:
                highest = highest.maximum(self.sink.double().view(1, -1, 1)).masked_fill(
                    empty, -math.inf
                )
            gold = Golden(exact, total.masked_fill(empty, -math.inf), highest)

            def slots(b: int) -> list[Chunk]:
                # Slots that weigh nothing at all, for a bias such as -1e30, are as good as hidden:
                # bounds of their scores overflow.
                gone = weights[b] == 0
                s = score[b].masked_fill(gone, -math.inf).unsqueeze(1)
                w, i = (t[b].masked_fill(gone, 0.0).unsqueeze(1) for t in (product, size))
                return [Chunk(s, w, i, lambda: value[b])]

            allowed: Budget = budget(self._inputs(), gold, precision, source=slots)
            return allowed.output

        return Expected(weights, exact, bound)

    def exact(self) -> Tensor:
        """The output over the slots that the mask shows, float64 ``[B, Hq, Q, Dv]``; 0 in rows with
        nothing to attend."""
        return self.expected().exact

    def _inputs(self) -> Inputs:
        """The call as inputs of a case, of which the budget reads shapes, dtype and sink alone.

        Each query head has a KV head of its own here, as in ``_terms``."""
        batch, heads, q_len, head_dim = self.query.shape
        slots = max(self.key.size(2), q_len)
        case = DecodeCase(
            cache_len=slots,
            input_pos=(slots - q_len,) * batch,
            heads=heads,
            head_dim=head_dim,
            value_dim=self.value.size(3),
            q_len=q_len,
            dtype=str(self.query.dtype).removeprefix("torch."),
            score="none" if self.sink is None else "sink",
        )
        parameters = {} if self.sink is None else {"sink_logits": self.sink}
        position = torch.tensor(case.input_pos)
        return Inputs(case, self.query, self.key, self.value, position, parameters)

    def attended(self) -> Tensor:
        """The weight that the call itself gives each slot, float64 ``[B, Hq, Q, S]``, read off by
        giving slot j the unit vector e_j as its value, as many slots at a time as there are value
        dims.

        Raises:
            RuntimeError: where the call cannot be made again.
        """
        if self.again is None:
            raise RuntimeError("a part of compiled code cannot be called again")
        slots, dims = self.value.shape[2:]
        pieces = []
        for start in range(0, slots, dims):
            count = min(dims, slots - start)
            value = torch.zeros_like(self.value)
            value[:, :, torch.arange(start, start + count), torch.arange(count)] = 1.0
            pieces.append(self.again(value)[..., :count].double())
        return torch.cat(pieces, -1)
