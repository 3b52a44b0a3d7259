"""gpt-fast's KVCache and block masks as a cache class, from the checkout that the environment
variable GPT_FAST names; nothing of it is copied."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def _model() -> ModuleType:
    folder = os.environ.get("GPT_FAST", "")
    file = Path(folder, "model.py")
    if not folder or not file.is_file():
        raise ImportError("GPT_FAST: set it to the folder of a gpt-fast checkout, with model.py")
    spec = importlib.util.spec_from_file_location("gpt_fast_model", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODEL: Any = _model()


def _causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return q >= kv


class GptFast:
    """`model.KVCache`, written and attended as `generate.py` does: a prompt from slot 0 with a mask
    of its own, then one token at a time with a row of the square mask; eager."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # setup_caches rounds up to a multiple of 8.
        self.slots, self.device = -(-cache_len // 8) * 8, device
        self.cache = _MODEL.KVCache(batch_size, self.slots, num_kv_heads, head_dim, dtype)
        self.cache.to(device)
        self.square = self._mask(self.slots)
        self.position = 0

    def _mask(self, rows: int) -> Any:
        return create_block_mask(_causal, 1, 1, rows, self.slots, device=self.device.type)

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A prompt, or one token."""
        count = query.size(2)
        input_pos = torch.arange(self.position, self.position + count, device=query.device)
        if count == 1:
            mask = self.square[:, :, input_pos // self.square.BLOCK_SIZE[0]]
            mask.mask_mod = self.square.mask_mod
            mask.seq_lengths = (1, self.slots)
        elif self.position == 0:
            mask = self._mask(count)
        else:
            raise NotImplementedError("generate.py has no mask for several tokens after a prompt")
        mask.mask_mod = _MODEL.get_mask_mod(mask.mask_mod, input_pos[0])
        keys, values = self.cache.update(input_pos, key, value)
        self.position += count
        out = flex_attention(query, keys, values, block_mask=mask, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out

    def rollback(self, n: int) -> None:
        """The next tokens overwrite the slots, as in speculative decoding."""
        self.position -= n

    def reset(self, sequences: list[int]) -> None:
        """A new prompt from slot 0."""
        self.position = 0
