"""Contenders: ways to make one decode step, each as a function without arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from harness.decoding.attention import decode_attention
from harness.paths.compile import Compiled


@dataclass(frozen=True)
class Step:
    """One decode step: ``batch`` sequences at one ``position`` of caches ``[B, Hkv, S, D]``."""

    dtype: str
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    cache_len: int
    position: int

    def __str__(self) -> str:
        heads = f"H={self.heads}" + (f"/{self.kv_heads}" if self.kv_heads != self.heads else "")
        batch = f"B={self.batch} " if self.batch > 1 else ""
        return (
            f"{self.dtype} {batch}{heads} D={self.head_dim} S={self.cache_len} pos={self.position}"
        )

    @property
    def group(self) -> int:
        """Query heads for each KV head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Tensors:
    """The tensors of a step: ``query`` ``[B, Hq, 1, D]``, caches, ``input_pos`` ``[B]``."""

    query: Tensor
    key: Tensor
    value: Tensor
    input_pos: Tensor

    @classmethod
    def of(cls, step: Step, device: str) -> Tensors:
        """Random ones."""
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, step.dtype)

        def normal(heads: int, length: int) -> Tensor:
            shape = (step.batch, heads, length, step.head_dim)
            return torch.randn(shape, generator=generator).to(device, dtype)

        query = normal(step.heads, 1)
        key, value = (normal(step.kv_heads, step.cache_len) for _ in range(2))
        return cls(query, key, value, torch.full((step.batch,), step.position, device=device))


Contender = Callable[[], Any]


def contenders(step: Step, device: str) -> dict[str, Contender]:
    """The contenders of a step, by name. What is made once for many steps (a graph, a block mask of
    one position) is made before; the fixed path makes its block mask in the step."""
    t = Tensors.of(step, device)
    end = step.position + 1
    gqa = step.group > 1
    key, value = t.key[:, :, :end], t.value[:, :, :end]
    packed = t.query.view(step.batch, step.kv_heads, step.group, step.head_dim)
    mask = torch.arange(step.cache_len, device=device) <= t.input_pos[:, None, None, None]
    fixed = Compiled(_fixed, dynamic=False)
    plain = Compiled(_as_it_was, dynamic=False)
    inside = Compiled(_views_inside, dynamic=False)
    stack = torch.stack([t.key, t.value])
    full = Compiled(_full_cache, dynamic=False)
    found: dict[str, Contender] = {
        "sliced SDPA": lambda: scaled_dot_product_attention(t.query, key, value, enable_gqa=gqa),
        "fixed path": lambda: fixed(t.query, t.key, t.value, t.input_pos),
        "fixed path, plain": lambda: plain(t.query, t.key, t.value, t.input_pos),
        "fixed path, views inside": lambda: inside(t.query, stack, t.input_pos),
        "full cache": _of_full_cache(full, t, step),
        "masked SDPA": lambda: scaled_dot_product_attention(
            t.query, t.key, t.value, attn_mask=mask, enable_gqa=gqa
        ),
        "floor": _floor(key, value),
    }
    if gqa:
        found["packed SDPA"] = lambda: scaled_dot_product_attention(packed, key, value)
    if device != "cpu":
        for name, backend in _BACKENDS.items():
            found[name] = _with_backend(backend, found["sliced SDPA"])
    return found


_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}


def _with_backend(backend: SDPBackend, call: Contender) -> Contender:
    def within() -> Any:
        with sdpa_kernel(backend):
            return call()

    return within


def _fixed(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Any:
    return decode_attention(query, key, value, input_pos)


def _as_it_was(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Any:
    return decode_attention(query, key, value, input_pos, pack_gqa=False)


def _views_inside(query: Tensor, stack: Tensor, input_pos: Tensor) -> Any:
    return decode_attention(query, stack[0], stack[1], input_pos)


def _full_cache(query: Tensor, key: Tensor, value: Tensor, mask: Any, gqa: bool) -> Any:
    return flex_attention(query, key, value, block_mask=mask, enable_gqa=gqa)


def _of_full_cache(full: Compiled, t: Tensors, step: Step) -> Contender:
    input_pos = t.input_pos

    def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return kv <= input_pos[b] + q

    device = t.query.device
    mask = create_block_mask(causal, step.batch, None, 1, step.cache_len, device)
    return lambda: full(t.query, t.key, t.value, mask, step.group > 1)


def _floor(key: Tensor, value: Tensor) -> Contender:
    """A sum over the same bytes, as whole numbers: what reading them once takes."""
    parts = [x.contiguous().view(torch.int64) for x in (key, value)]
    return lambda: [part.sum() for part in parts]
