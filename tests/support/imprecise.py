"""Decode functions that lose more bits than they declare, each at one step of the arithmetic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.oracle.rounding import cut

Step = Callable[[Tensor], Tensor]


def _same(x: Tensor) -> Tensor:
    return x


def to(dtype: str) -> Step:
    """Rounding to a dtype, in float32."""
    return lambda x: x.to(getattr(torch, dtype)).float()


def _number(x: float, dtype: str) -> float:
    return torch.tensor(x).to(getattr(torch, dtype)).item()


@dataclass(frozen=True)
class Arithmetic:
    """Attention over whole caches in float32, with rounding steps. ``block`` slots at a time are
    summed in the inputs' dtype, or all of them in float32."""

    scale: str = "float32"
    log2_e: str = "float32"
    scaled_query: Step = _same
    scores: Step = _same
    weights: Step = _same
    block: int = 0
    total: Step = _same
    output: Callable[[Tensor, torch.dtype], Tensor] = lambda output, dtype: output.to(dtype)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Tensor:
        """The output of a plainly causal decode call."""
        group, dtype = query.size(1) // key.size(1), query.dtype
        t = input_pos[:, None] + torch.arange(query.size(2))
        allowed = (torch.arange(key.size(2)) <= t[:, :, None])[:, None]
        used = allowed.any(2)[..., None]
        key, value = (
            torch.where(used, cache, 0).float().repeat_interleave(group, 1)
            for cache in (key, value)
        )
        query = self.scaled_query(query.float() * _number(query.size(-1) ** -0.5, self.scale))
        scores = self.scores(query @ key.mT).masked_fill(~allowed, -torch.inf)
        gap = scores - scores.amax(-1, keepdim=True)
        weights = torch.exp2(gap * _number(math.log2(math.e), self.log2_e))
        total = self.total(weights.sum(-1, keepdim=True))
        return self.output(self._sum(self.weights(weights), value, dtype) / total, dtype)

    def _sum(self, weights: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
        if not self.block:
            return weights @ value
        output = torch.zeros(*weights.shape[:-1], value.size(-1))
        for start in range(0, weights.size(-1), self.block):
            part = slice(start, start + self.block)
            output = (output + weights[..., part] @ value[:, :, part]).to(dtype).float()
        return output


def cut_off(output: Tensor, dtype: torch.dtype) -> Tensor:
    """The output rounded towards zero."""
    return cut(output.double(), str(dtype).removeprefix("torch.")).to(dtype)


def coarse(x: Tensor) -> Tensor:
    """Weights to 7 bits, by a rounding that no dtype has: to multiples of a third of a power."""
    step = torch.ldexp(torch.full_like(x, 1 / 3), torch.frexp(x).exponent - 5)
    return torch.round(x / step) * step


_LOG2_E = Arithmetic(log2_e="float16")
_SUMMED = "p @ v is summed in bfloat16"
# By name, the arithmetic, a dtype in which it shows, and what a verdict says of it.
IMPRECISE: dict[str, tuple[Arithmetic, str, str]] = {
    "scores": (Arithmetic(scores=to("bfloat16")), "bfloat16", "the scores are rounded to bfloat16"),
    "scores-fp16": (
        Arithmetic(scores=to("float16")),
        "float16",
        "the scores are rounded to float16",
    ),
    # 1 / sqrt(32) is the same number in both.
    "scale": (
        Arithmetic(scale="bfloat16"),
        "float16",
        "the scale is rounded to bfloat16 or the scale is rounded to float16",
    ),
    "log2-e": (_LOG2_E, "float16", "log2(e) is rounded to float16"),
    "log2-e-bf16": (Arithmetic(log2_e="bfloat16"), "bfloat16", "log2(e) is rounded to bfloat16"),
    "query": (
        Arithmetic(scaled_query=to("bfloat16")),
        "bfloat16",
        "the scaled query is rounded to bfloat16",
    ),
    "cut": (Arithmetic(output=cut_off), "bfloat16", "the output is cut off, not rounded"),
    "sums": (Arithmetic(block=16), "bfloat16", _SUMMED),
    "sums-one-by-one": (Arithmetic(block=1), "bfloat16", _SUMMED),
    "coarse": (Arithmetic(weights=coarse), "bfloat16", "not explained by any known step"),
}


def rounding_weights(arithmetic: Arithmetic, dtype: str) -> Arithmetic:
    """The same with weights rounded to the inputs' dtype, as the default declaration permits."""
    first = arithmetic.weights
    return dataclasses.replace(arithmetic, weights=lambda p: to(dtype)(first(p)))
