"""Sound cache classes of the harness's own, as the contract has them: the fixed path, and plain
ones, in which faults of state are planted."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.decoding import KVCache, decode_attention


class FixedPath:
    """`KVCache` with the fixed path, eager."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        value_head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
        softcap: float | None = None,
        scale: float | None = None,
    ) -> None:
        self.cache = KVCache(
            batch_size,
            num_kv_heads,
            cache_len,
            head_dim,
            value_head_dim=value_head_dim,
            dtype=dtype,
            device=device,
        )
        self.options: dict[str, Any] = {"window": window, "scale": scale}
        if softcap is not None:
            self.options["score_mod"] = lambda score, b, h, q, kv: (
                softcap * torch.tanh(score / softcap)
            )

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Write, attend, move on."""
        out = decode_attention(query, *self.cache.update(key, value), **self.options)
        assert isinstance(out, Tensor)
        self.cache.advance(query_lens)
        return out

    def rollback(self, n: Tensor) -> None:
        """Take back the last ``n`` tokens."""
        self.cache.rollback(n)

    def reset(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.cache.reset(sequences)

    def release(self, sequences: list[int]) -> None:
        """Make these sequences idle."""
        self.cache.release(sequences)

    def poison(self, value: float) -> None:
        """Fill the slots that hold no token."""
        key, values, positions = self.cache.layer()
        free = torch.arange(key.size(2), device=key.device) >= positions[:, None]
        for buffer in (key, values):
            buffer.masked_fill_(free[:, None, :, None], value)

    def contents(self, sequence: int) -> tuple[Tensor, Tensor]:
        """What a sequence holds."""
        key, value, positions = self.cache.layer()
        count = int(positions[sequence])
        return key[sequence, :, :count], value[sequence, :, :count]


class DenseCache:
    """A row of slots for each sequence, and SDPA over all of them with a mask."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        value_head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
    ) -> None:
        self.key, self.value = (
            torch.zeros(batch_size, num_kv_heads, cache_len, dim, dtype=dtype, device=device)
            for dim in (head_dim, value_head_dim)
        )
        self.position = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.window = window

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Write, attend, move on."""
        row = torch.arange(query.size(2), device=query.device)
        slots = self.position[:, None] + row
        self.write(key, value, slots, row < query_lens[:, None])
        out = self.attend(query, slots)
        self.position += query_lens
        return out

    def write(self, key: Tensor, value: Tensor, slots: Tensor, new: Tensor) -> None:
        """Put the ``new`` tokens, bool ``[B, Q]``, into their ``slots`` ``[B, Q]``."""
        b, i = new.nonzero(as_tuple=True)
        self.key[b, :, slots[b, i]] = key[b, :, i]
        self.value[b, :, slots[b, i]] = value[b, :, i]

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        """Attention of queries at ``slots`` over those up to their own."""
        every = torch.arange(self.key.size(2), device=query.device)
        allowed = every <= slots[..., None]
        if self.window is not None:
            allowed &= every > slots[..., None] - self.window
        return self.masked(query, allowed)

    def masked(self, query: Tensor, allowed: Tensor) -> Tensor:
        """Attention over the slots that ``allowed`` ``[B, Q, S]`` has."""
        return F.scaled_dot_product_attention(
            query, self.key, self.value, attn_mask=allowed[:, None], enable_gqa=True
        )

    def rollback(self, n: Tensor) -> None:
        """Take back the last ``n`` tokens."""
        self.position -= n

    def reset(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.position[sequences] = 0

    def release(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.reset(sequences)

    def fork(self, source: int, target: int) -> None:
        """Copy a sequence."""
        for buffer in (self.key, self.value, self.position):
            buffer[target] = buffer[source]

    def grow(self, cache_len: int) -> None:
        """Add slots at the end of each sequence."""
        more = cache_len - self.key.size(2)
        self.key, self.value = (F.pad(x, (0, 0, 0, more)) for x in (self.key, self.value))

    def poison(self, value: float) -> None:
        """Fill the slots that hold no token."""
        free = torch.arange(self.key.size(2), device=self.key.device) >= self.position[:, None]
        for buffer in (self.key, self.value):
            buffer.masked_fill_(free[:, None, :, None], value)

    def contents(self, sequence: int) -> tuple[Tensor, Tensor]:
        """What a sequence holds."""
        count = int(self.position[sequence])
        return self.key[sequence, :, :count], self.value[sequence, :, :count]


class RingCache:
    """A sliding window: as many slots as the window is wide, used again in turn.

    The tokens of a chunk come one after the other, since a later one takes the slot of what an
    earlier one attends. What was overwritten cannot be taken back, so that there is no rollback.
    """

    requires = ("window",)

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        value_head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int,
    ) -> None:
        shape = (batch_size, num_kv_heads, self.slots(window))
        self.key, self.value = (
            torch.zeros(*shape, dim, dtype=dtype, device=device)
            for dim in (head_dim, value_head_dim)
        )
        self.position = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def slots(self, window: int) -> int:
        """How many slots the ring has."""
        return window

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Write a token and attend, one after the other."""
        every = torch.arange(self.key.size(2), device=query.device)
        rows = []
        for i in range(query.size(2)):
            b = (query_lens > i).nonzero().flatten()
            slot = self.position[b] % self.key.size(2)
            self.key[b, :, slot], self.value[b, :, slot] = key[b, :, i], value[b, :, i]
            allowed = every <= self.position[:, None]
            rows.append(
                F.scaled_dot_product_attention(
                    query[:, :, i : i + 1],
                    self.key,
                    self.value,
                    attn_mask=allowed[:, None, None],
                    enable_gqa=True,
                )
            )
            self.position[b] += 1
        return torch.cat(rows, dim=2)

    def reset(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.position[sequences] = 0

    def release(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.reset(sequences)

    def poison(self, value: float) -> None:
        """Fill the slots that hold no token."""
        free = torch.arange(self.key.size(2), device=self.key.device) >= self.position[:, None]
        for buffer in (self.key, self.value):
            buffer.masked_fill_(free[:, None, :, None], value)
