"""Reference: the tokens of each sequence in one uncached forward, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.call import AttentionCall
from harness.auditing.observe import observed
from harness.auditing.recorder import Recorder

# tokens int64 ``[T]`` to logits ``[T, vocabulary]``, in float64, without a cache.
Uncached = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reference:
    """An uncached forward of ``tokens`` ``[T]``: its ``logits`` ``[T, vocabulary]`` and one
    attention call for each layer, of batch 1. Attention itself is that of ``AttentionCall.exact``,
    since models compute softmax in float32 whatever their dtype."""

    tokens: Tensor
    logits: Tensor
    calls: tuple[AttentionCall, ...]

    @classmethod
    def of(cls, uncached: Uncached, tokens: Tensor) -> Reference:
        """Run ``uncached`` on the tokens and record its calls."""
        calls: list[AttentionCall] = []
        with observed(Recorder(calls.append, exactly=True)), torch.no_grad():
            logits = uncached(tokens)
        return cls(tokens, logits.double(), tuple(calls))

    def queries(self, layer: int) -> Tensor:
        """The queries of a layer, float64 ``[T, Hq, D]``."""
        return self.calls[layer].query[0].transpose(0, 1).double()

    def rows(self, layer: int, heads: int | None = None) -> Tensor:
        """What a cache of the layer should hold for each token: key and value of each KV head,
        float64 ``[T, Hkv, D + Dv]``. Where a model hands over a multiple of that many ``heads``,
        each stands as often as that, next to itself."""
        call = self.calls[layer]
        rows = torch.cat([call.key[0], call.value[0]], -1).transpose(0, 1).double()
        return rows.repeat_interleave((heads or rows.size(1)) // rows.size(1), 1)

    def visible(self, layer: int) -> Tensor:
        """The tokens that each token attends, bool ``[T, T]``."""
        return self.calls[layer].visible[0].any(0)


class References:
    """References by forward and tokens, each computed once, which configurations of one model
    share. They live as long as this: a function may give other numbers later, where its model has
    changed."""

    def __init__(self) -> None:
        self.of = functools.lru_cache(maxsize=256)(_reference)


def _reference(uncached: Uncached, tokens: tuple[int, ...]) -> Reference:
    return Reference.of(uncached, torch.tensor(tokens))
