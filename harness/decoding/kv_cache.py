"""A KV cache with static buffers: written in place, never sliced, its positions in a tensor.

It is made for `harness.decoding.attention`: shapes and storage stay the same from the first token
to the last, so one graph serves them all, and the contents are finite from the start, as the tail
contract there demands.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CacheView", "KVCache"]


class CacheView(NamedTuple):
    """The tensors of a cache that `decode_attention` needs, in the order of its arguments."""

    key: Tensor  # [B, Hkv, S, D], the whole buffer of a layer
    value: Tensor  # [B, Hkv, S, Dv]
    input_pos: Tensor  # [B] int64, the cache's own tensor


class KVCache(torch.nn.Module):
    """Keys and values of ``num_layers`` layers for ``B`` sequences that advance independently.

    A step writes each layer with `update`, then moves on once with `advance`. Use one cache for all
    layers, or one per layer (each then advances by itself). Layers have buffers of their own, not
    views of a stack, which compiled flex on CPU misreads (see `decode_attention`).

    ``input_pos[b]`` is the slot of the next token, and so the number of tokens held. Where it is
    negative, sequence ``b`` is idle and, until `reset`, not changed by a bit: -1 after `release`,
    -2 after a `rollback` past its start.

    Nothing in a step reads a value on the host, so nothing can raise because of one. Instead,
    tokens at or past ``cache_len`` are dropped while ``input_pos`` counts on; `check` raises on
    request.
    """

    input_pos: Tensor

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        *,
        value_head_dim: int | None = None,
        num_layers: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Allocate ``[B, Hkv, S, D]`` and ``[B, Hkv, S, Dv]`` zeros; all sequences start empty.

        ``value_head_dim`` defaults to ``head_dim``, dtype and device to torch's defaults. Kernels
        prefer a ``cache_len`` that is a multiple of 128. The buffers are not part of state_dict.

        Raises:
            ValueError: a size is below 1.
        """
        super().__init__()
        widths = {"key": head_dim, "value": head_dim if value_head_dim is None else value_head_dim}
        sizes = (batch_size, num_kv_heads, cache_len, *widths.values(), num_layers)
        if min(sizes) < 1:
            raise ValueError(f"all sizes of a cache must be at least 1, got {sizes}")
        self.cache_len, self.num_layers = cache_len, num_layers
        for layer in range(num_layers):
            for name, width in widths.items():
                # zeros() and not empty(), whose memory may hold NaN: 0 * NaN is NaN.
                shape = (batch_size, num_kv_heads, cache_len, width)
                buffer = torch.zeros(shape, dtype=dtype, device=device)
                self.register_buffer(f"{name}_{layer}", buffer, persistent=False)
        input_pos = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.register_buffer("input_pos", input_pos, persistent=False)

    def layer(self, layer: int = 0) -> CacheView:
        """The whole buffers of one layer, and the positions.

        Raises:
            IndexError: no such layer.
        """
        if not 0 <= layer < self.num_layers:
            raise IndexError(f"layer must be in 0..{self.num_layers - 1}, got {layer}")
        key, value = self.get_buffer(f"key_{layer}"), self.get_buffer(f"value_{layer}")
        return CacheView(key, value, self.input_pos)

    def update(self, key: Tensor, value: Tensor, *, layer: int = 0) -> CacheView:
        """Write ``Q`` new tokens of one layer at ``input_pos[b] ..``; the positions stay.

        If sequences have different numbers of new tokens, pad to one ``Q`` and `advance` by the
        real numbers: the padding lies in the tail and is overwritten later.

        Args:
            key: ``[B, Hkv, Q, D]``, and value: ``[B, Hkv, Q, Dv]``, of the cache's dtype, device.
            layer: which layer they belong to.

        Returns:
            What `layer` returns, to be unpacked into `decode_attention`.

        Raises:
            TypeError: a wrong dtype.
            ValueError: a wrong shape or device, or more tokens than slots.
            IndexError: no such layer.
        """
        view = self.layer(layer)
        _check_new("key", key, view.key, like=key)
        _check_new("value", value, view.value, like=key)
        batch = torch.arange(key.size(0), device=key.device)[:, None]
        slot = self.input_pos.clamp(min=0)[:, None] + torch.arange(key.size(2), device=key.device)
        kept = (self.input_pos >= 0)[:, None] & (slot < self.cache_len)
        # A token that is not kept writes the old content back, at a slot that no other token of the
        # sequence has, since two writes to one slot have no defined order.
        slot = slot % self.cache_len
        for buffer, new in ((view.key, key), (view.value, value)):
            old = buffer[batch, :, slot]
            tokens = new.detach().transpose(1, 2)
            buffer[batch, :, slot] = torch.where(kept[:, :, None, None], tokens, old)
        return view

    def advance(self, n: int | Tensor) -> None:
        """Move live sequences on by ``n`` tokens, an int or ``[B]``; once a step, after all layers.

        Raises:
            TypeError: a tensor ``n`` is not int64 or int32.
            ValueError: an int ``n`` is negative, or a tensor has a wrong shape; the values of a
                tensor are not checked.
        """
        self.input_pos.add_(torch.where(self.input_pos >= 0, self._count(n), 0))

    def rollback(self, n: int | Tensor) -> None:
        """Take back the last ``n`` tokens of live sequences (rejected speculation).

        Only the position moves. A sequence with fewer tokens becomes idle, and `check` raises.
        ``n`` and the errors are as for `advance`.
        """
        back = self.input_pos - self._count(n)
        back = torch.where(back < 0, -2, back)
        self.input_pos.copy_(torch.where(self.input_pos >= 0, back, self.input_pos))

    def reset(
        self, which: int | Sequence[int] | Tensor | None = None, *, zero: bool = False
    ) -> None:
        """Make sequences empty and live: a fresh start, or reuse of a batch slot by a new sequence.

        Args:
            which: an int, ints, an integer tensor or a bool mask ``[B]``; None: all sequences. In
                a compiled region pass a tensor, as it recompiles for other ints.
            zero: overwrite the contents too, in time proportional to the cache. Finite leftovers
                are never attended; it is for sequences that held NaN or inf.

        Raises:
            ValueError: an int that is no sequence, or a mask of a wrong shape.
        """
        mask = self._mask(which)
        self.input_pos.masked_fill_(mask, 0)
        for layer in range(self.num_layers) if zero else ():
            for buffer in self.layer(layer)[:2]:
                buffer.masked_fill_(mask[:, None, None, None], 0)

    def release(self, which: int | Sequence[int] | Tensor | None = None) -> None:
        """Make sequences idle until `reset`, whose ``which`` and errors apply here too."""
        self.input_pos.masked_fill_(self._mask(which), -1)

    def check(self, q_len: int = 0) -> None:
        """Raise if tokens were dropped, or would be by ``q_len`` more. It waits for the device.

        Raises:
            ValueError: sequences are past the cache or were rolled back past their start; the
                message lists them by number.
        """
        positions = dict(enumerate(self.input_pos.tolist()))
        past = {b: pos for b, pos in positions.items() if pos >= 0 and pos + q_len > self.cache_len}
        if past:
            raise ValueError(
                f"{q_len} more tokens at input_pos {past} (by sequence)"
                f" exceed {self.cache_len} slots"
            )
        before = [b for b, pos in positions.items() if pos < -1]
        if before:
            raise ValueError(f"sequences {before} were rolled back past their start; reset them")

    def _count(self, n: int | Tensor) -> int | Tensor:
        if not isinstance(n, Tensor):
            if n < 0:
                raise ValueError(f"n must not be negative, got {n}")
        elif n.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"n must be an int or an int64 or int32 tensor, got {n.dtype}")
        elif n.shape not in ((), self.input_pos.shape):
            raise ValueError(f"n must have shape [{self.input_pos.size(0)}], got {list(n.shape)}")
        return n

    def _mask(self, which: int | Sequence[int] | Tensor | None) -> Tensor:
        """The bool mask ``[B]`` of the sequences that ``which`` names."""
        batch = self.input_pos.size(0)
        sequences = torch.arange(batch, device=self.input_pos.device)
        if which is None:
            return sequences >= 0
        if isinstance(which, Tensor) and which.dtype == torch.bool:
            if which.shape != (batch,):
                raise ValueError(f"a mask must have shape [{batch}], got {list(which.shape)}")
            return which
        if not isinstance(which, Tensor):
            numbers = [which] if isinstance(which, int) else list(which)
            if not all(0 <= b < batch for b in numbers):
                raise ValueError(f"which must be sequences in 0..{batch - 1}, got {numbers}")
            which = torch.tensor(numbers, dtype=torch.int64, device=sequences.device)
        return (sequences[:, None] == which.reshape(1, -1)).any(dim=1)


def _check_new(name: str, new: Tensor, buffer: Tensor, like: Tensor) -> None:
    """Raise unless ``new`` fits into ``buffer`` and has as many tokens as ``like``."""
    batch, heads, slots, width = buffer.shape
    if new.dim() != 4 or like.dim() != 4 or new.shape != (batch, heads, like.size(2), width):
        wanted = f"[{batch}, {heads}, Q, {width}]"
        raise ValueError(f"{name} must be {wanted} with one Q for both, got {list(new.shape)}")
    if not 1 <= new.size(2) <= slots:
        raise ValueError(f"{name} must have 1..{slots} tokens (cache_len), got {new.size(2)}")
    if new.dtype != buffer.dtype:
        raise TypeError(f"{name} must be {buffer.dtype} like the cache, got {new.dtype}")
    if new.device != buffer.device:
        raise ValueError(f"{name} must be on {buffer.device} like the cache, got {new.device}")
