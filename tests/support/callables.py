"""What may be called but is no plain function, as a user might bring it: one sound decode path, and
one that shows each query the slot behind its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode(query: Tensor, key_cache: Tensor, value_cache: Tensor, input_pos: Tensor) -> Tensor:
    """SDPA with a mask."""
    visible = torch.arange(key_cache.size(2)) <= input_pos[:, None, None, None]
    return F.scaled_dot_product_attention(query, key_cache, value_cache, attn_mask=visible)


def reaching(ahead: int, query: Tensor, key: Tensor, value: Tensor, pos: Tensor) -> Tensor:
    """SDPA up to the slot ``ahead`` of each query's own."""
    return decode(query, key, value, pos + ahead)


reaching.supports = {"ragged"}  # type: ignore[attr-defined]


@torch.library.custom_op("flexdecode_tests::decode", mutates_args=())
def operator(query: Tensor, key_cache: Tensor, value_cache: Tensor, input_pos: Tensor) -> Tensor:
    """An operator of torch's."""
    return decode(query, key_cache, value_cache, input_pos)


@dataclass
class Decoder:
    """An object that can be called, has a method, and no hash."""

    ahead: int

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        """As by ``reaching``."""
        return reaching(self.ahead, q, k, v, p)

    def method(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        """The same."""
        return self(q, k, v, p)

    def dtypes(self) -> str:
        """What is no declaration, though it has the name of one."""
        return "any"


class Module(torch.nn.Module):
    """A module."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        """SDPA."""
        return decode(q, k, v, p)


SOUND: dict[str, Callable[..., Any]] = {
    "packet": torch.ops.flexdecode_tests.decode,
    "overload": torch.ops.flexdecode_tests.decode.default,
    # A function that pybind11 made.
    "pybind": torch.ops.flexdecode_tests.decode.default._op,
    "partial": functools.partial(reaching, 0),
    "instance": Decoder(0),
    "method": Decoder(0).method,
    "module": Module(),
    "script": torch.jit.script(decode),
    "compiled": torch.compile(decode, backend="eager"),
}
globals().update(SOUND)
compiles = torch.compile(decode)
ahead = functools.partial(reaching, 1)
