"""The fixed path compiled: a whole program, whatever its steps are, in one graph."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.decoding import KVCache, decode_attention
from harness.paths.compile import Compiled
from harness.serving.caches import FixedPath


def step(
    cache: KVCache,
    options: dict[str, Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    count: Tensor,
) -> Tensor:
    """Update, attention and advance."""
    out = decode_attention(query, *cache.update(key, value), **options)
    assert isinstance(out, Tensor)
    cache.advance(count)
    return out


class FixedPathCompiled(FixedPath):
    """`FixedPath` with a step of `TOKENS` tokens compiled, by what `graph` is.

    A call of more tokens is a few runs of the graph, and one of fewer is padded.
    """

    TOKENS: ClassVar[int] = 4
    graph: ClassVar[Compiled] = Compiled(step, dynamic=False, recompile_limit=64)

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Run the graph until all tokens are in."""
        outputs = []
        for start in range(0, query.size(2), self.TOKENS):
            part = (x[:, :, start : start + self.TOKENS] for x in (query, key, value))
            more = max(0, start + self.TOKENS - query.size(2))
            padded = (F.pad(x, (0, 0, 0, more)) for x in part)
            count = (query_lens - start).clamp(0, self.TOKENS)
            outputs.append(self.graph(self.cache, self.options, *padded, count))
        return torch.cat(outputs, dim=2)[:, :, : query.size(2)]


class FixedPathSplit(FixedPathCompiled):
    """The same a token at a time, which the split-KV decode kernel takes from 512 slots on."""

    TOKENS: ClassVar[int] = 1
    graph: ClassVar[Compiled] = Compiled(step, dynamic=False, recompile_limit=64)
