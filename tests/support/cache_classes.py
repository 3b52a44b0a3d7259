"""Cache classes as a user might bring them: sound ones, and some with planted behaviour.

Those whose fault lies in numbers are in ``harness.serving.faults``; these raise, end the process,
hang, or are no caches.
"""

from __future__ import annotations

import ctypes
import itertools
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.serving.caches import DenseCache
from harness.serving.pages import GatheredPages


class Lockstep:
    """The least that a class needs: all sequences go together."""

    def __init__(
        self,
        batch_size: int,
        num_heads: int,
        cache_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (batch_size, num_heads, cache_len, head_dim)
        self.key, self.value = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.position = 0

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        new = slice(self.position, self.position + query.size(2))
        self.key[:, :, new], self.value[:, :, new] = key, value
        self.position = new.stop
        allowed = torch.ones(query.size(2), new.stop, dtype=torch.bool).tril(new.start)
        held = (x[:, :, : new.stop] for x in (self.key, self.value))
        return F.scaled_dot_product_attention(query, *held, attn_mask=allowed)


class TopLeft(Lockstep):
    """Its mask begins at the first slot, wherever the queries are."""

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        new = slice(self.position, self.position + query.size(2))
        self.key[:, :, new], self.value[:, :, new] = key, value
        self.position = new.stop
        held = (x[:, :, : new.stop] for x in (self.key, self.value))
        return F.scaled_dot_product_attention(query, *held, is_causal=True)


class Crashes(DenseCache):
    """It kills its process when a sequence is reset."""

    def reset(self, sequences: list[int]) -> None:
        ctypes.string_at(0)


class Raises(DenseCache):
    """It raises when a sequence is released."""

    def release(self, sequences: list[int]) -> None:
        raise RuntimeError("no such sequence")


class Hangs(DenseCache):
    """It does not return from a rollback."""

    def rollback(self, n: Tensor) -> None:
        time.sleep(1000)


class ChangesItsQuery(DenseCache):
    """It scales its query in place."""

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        out = super().attend(query, slots)
        query *= 2
        return out


class HandsOutItsBuffer(DenseCache):
    """Its output is a buffer that the next call overwrites."""

    buffer: Tensor | None = None

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        out = super().attend(query, slots)
        if self.buffer is None or self.buffer.shape != out.shape:
            self.buffer = out.clone()
        return self.buffer.copy_(out)


class HandsOutItsBufferOnPurpose(HandsOutItsBuffer):
    """The same, declared."""

    reuses_output = True


class ReadsUnwrittenMemory(DenseCache):
    """Its result depends on what the allocator hands out."""

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        return super().attend(query, slots) + (torch.empty(1000) < -1e38).all()


class Forgetful(DenseCache):
    """The 41st object of the process is wrong, and those after it."""

    made = itertools.count(1)

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.number = next(self.made)

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        out = super().attend(query, slots)
        return out if self.number < 41 else out * 1.5


class OnlySmall(GatheredPages):
    """It refuses pages of more than 8 slots."""

    def __init__(self, **given: object) -> None:
        if given["page_size"] > 8:  # type: ignore[operator]
            raise NotImplementedError("pages of more than 8 slots")
        super().__init__(**given)  # type: ignore[arg-type]


class NoDecode:
    """No cache."""


class NoDtype:
    """It cannot be made as the contract says."""

    def __init__(self, batch_size: int, num_heads: int, cache_len: int, head_dim: int) -> None:
        pass

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query


class DeclaresTooMuch(DenseCache):
    """It declares what its arguments would show."""

    supports = ("softcap",)
