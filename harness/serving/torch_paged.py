"""torch's own paged attention, ``torch.nn.attention.experimental._paged_attention``, as a cache
class: its page table, its conversion of a block mask, FlexAttention over the pages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.experimental._paged_attention import PagedAttention
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


class TorchPaged:
    """`PagedAttention` as its docstrings say: reserve, assign, convert, attend; eager."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        value_head_dim: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.blocks = -(-cache_len // page_size)
        pages = batch_size * self.blocks
        self.paged = PagedAttention(pages, page_size, batch_size, device=device.type)
        self.key, self.value = (
            torch.zeros(1, num_kv_heads, pages * page_size, dim, dtype=dtype, device=device)
            for dim in (head_dim, value_head_dim)
        )
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Reserve and assign each sequence's tokens, then attend with a converted block mask."""
        first, self.lengths = self.lengths, self.lengths + query_lens
        for b, count in enumerate(query_lens.tolist()):
            if not count:
                continue
            which = torch.tensor([b], device=query.device)
            self.paged.reserve(which, self.lengths[b : b + 1])
            slots = (first[b] + torch.arange(count, device=query.device))[None]
            new_key, new_value = (x[b : b + 1, :, :count] for x in (key, value))
            self.paged.assign(which, slots, new_key, new_value, self.key, self.value)

        def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            return kv <= first[b] + q

        mask = create_block_mask(
            causal,
            query.size(0),
            None,
            query.size(2),
            self.blocks * self.paged.page_size,
            device=query.device.type,
            BLOCK_SIZE=(128, self.paged.page_size),
        )
        mask = self.paged.convert_logical_block_mask(mask, kv_len=self.lengths)
        out = flex_attention(query, self.key, self.value, block_mask=mask, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out

    def rollback(self, n: Tensor) -> None:
        """Take back the last ``n[b]`` tokens of sequence b, which keeps its pages."""
        self.lengths = self.lengths - n

    def reset(self, sequences: list[int]) -> None:
        """Erase these sequences."""
        for b in sequences:
            self.paged.erase(torch.tensor([b], device=self.key.device))
            self.lengths[b] = 0

    def release(self, sequences: list[int]) -> None:
        """Erase these sequences."""
        self.reset(sequences)
