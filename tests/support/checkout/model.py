"""A stand-in for the ``model.py`` of a gpt-fast checkout: its names and calls, none of its code."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

# A test plants a fault by name.
FAULT = os.environ.get("STAND_IN_FAULT", "")


@dataclass
class ModelArgs:
    """Sizes, by gpt-fast's names."""

    block_size: int
    vocab_size: int
    n_layer: int
    dim: int
    intermediate_size: int
    n_head: int
    n_local_heads: int


class Cache(nn.Module):
    """Keys and values of one layer."""

    def __init__(self, *shape: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(shape, dtype=dtype))
        self.register_buffer("values", torch.zeros(shape, dtype=dtype))

    def update(self, input_pos: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the tokens at ``input_pos``; the whole caches."""
        if FAULT == "one-slot-late" and len(input_pos) == 1:
            input_pos = input_pos + 1
        self.keys[:, :, input_pos] = key
        self.values[:, :, input_pos] = value
        return self.keys, self.values


class Attention(nn.Module):
    """Attention with rotary embeddings and an optional ``kv_cache``."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.heads, self.kv_heads = args.n_head, args.n_local_heads
        self.head_dim = args.dim // args.n_head
        self.project = nn.Linear(args.dim, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.out = nn.Linear(args.dim, args.dim)
        self.kv_cache: Cache | None = None

    def forward(self, x: Tensor, mask: BlockMask, input_pos: Tensor) -> Tensor:
        """The attended hidden states ``[B, n, dim]``."""
        heads = self.project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key, value = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
        query, key = rotated(query, input_pos), rotated(key, input_pos)
        if self.kv_cache is not None:
            key, value = self.kv_cache.update(input_pos, key, value)
        grouped = self.heads != self.kv_heads
        out = flex_attention(query, key, value, block_mask=mask, enable_gqa=grouped)
        return self.out(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return, union-attr]


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """``x`` ``[B, H, n, D]`` turned by the angles of its positions ``[n]``."""
    half = x.size(-1) // 2
    frequency = torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
    angle = (position.unsqueeze(-1) * frequency).to(x.dtype)
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """A layer."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.mix = nn.Linear(args.dim, args.dim)

    def forward(self, x: Tensor, mask: BlockMask, input_pos: Tensor) -> Tensor:
        """The hidden states after it."""
        x = x + self.attention(F.layer_norm(x, x.shape[-1:]), mask, input_pos)
        return x + torch.tanh(self.mix(x))


class Transformer(nn.Module):
    """A decoder whose masks are given with each forward."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.embedding = nn.Embedding(args.vocab_size, args.dim)
        self.layers = nn.ModuleList(Block(args) for _ in range(args.n_layer))
        self.max_seq_length = -1

    def setup_caches(self, max_batch_size: int, max_seq_length: int) -> None:
        """Empty caches for each layer."""
        self.max_seq_length = max_seq_length
        for layer in self.layers:
            of: Any = layer.attention
            shape = (max_batch_size, of.kv_heads, max_seq_length, of.head_dim)
            of.kv_cache = Cache(*shape, dtype=self.embedding.weight.dtype)

    def forward(self, mask: BlockMask, ids: Tensor, input_pos: Tensor) -> Tensor:
        """Logits ``[B, n, vocabulary]``."""
        causal, start = mask.mask_mod, input_pos[0]
        if FAULT != "no-query-offset":
            mask.mask_mod = lambda b, h, q, kv: causal(b, h, q + start, kv)
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask, input_pos)
        return x @ self.embedding.weight.mT
