"""The caches of transformers as cache classes: its mask functions, its attention functions, and its
caches between them, without a model around them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, MistralConfig, StaticCache
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class _Module(torch.nn.Module):
    """What the attention functions ask of the module that calls them."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


class _Cached:
    """One attention layer over a cache; all sequences go together."""

    attention: ClassVar[str]

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
        window: int | None = None,
    ) -> None:
        self.batch_size, self.window = batch_size, window
        self.config = MistralConfig(
            vocab_size=8,
            hidden_size=num_heads * head_dim,
            num_hidden_layers=1,
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=head_dim,
            sliding_window=window,
        )
        self.config._attn_implementation = self.attention
        self.module = _Module(num_heads // num_kv_heads).eval()
        self.cache = self.made(cache_len)

    def made(self, cache_len: int) -> Cache:
        """The cache."""
        raise NotImplementedError

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A mask, an update, attention: in the order of a model's forward."""
        make: Any = create_causal_mask if self.window is None else create_sliding_window_causal_mask
        embeds = query.new_zeros(query.size(0), query.size(2), 1)
        first = self.cache.get_seq_length()
        positions = torch.arange(first, first + query.size(2), device=query.device)[None]
        mask = make(self.config, embeds, None, self.cache, position_ids=positions)
        keys, values = self.cache.update(key, value, 0)
        attend: Any = ALL_ATTENTION_FUNCTIONS.get_interface(self.attention, None)
        scaling = query.size(-1) ** -0.5
        # Compiling flex_attention for each length would take minutes, and is judged by itself.
        with torch.compiler.set_stance("force_eager"):
            out, _ = attend(
                self.module, query, keys, values, mask, scaling=scaling, sliding_window=self.window
            )
        rows: Tensor = out.transpose(1, 2).contiguous()
        return rows

    def reset(self, sequences: list[int]) -> None:
        """Empty the cache; sequences go together, so that it is the only one."""
        self.cache.reset()

    def fork(self, source: int, target: int) -> None:
        """What beam search does: reorder the cache."""
        beams = torch.arange(self.batch_size)
        beams[target] = source
        self.cache.reorder_cache(beams)


class _Dynamic(_Cached):
    recent = 0

    def decode(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As above."""
        self.recent += query.size(2)
        return super().decode(query, key, value)

    def made(self, cache_len: int) -> Cache:
        cache = DynamicCache(config=self.config)
        for layer in cache.layers:
            if hasattr(layer, "activate_past_recording"):
                layer.activate_past_recording()
        return cache

    def rollback(self, n: int) -> None:
        """Crop the cache, as assisted decoding does: tokens that came since the last crop, with
        which a sliding layer forgets what is before its window."""
        slides = self.window is not None and self.cache.get_seq_length() >= self.window
        if slides and n > self.recent:
            raise NotImplementedError("a sliding layer has no tokens from before the last crop")
        self.recent = 0
        self.cache.crop(-n)


class _Static(_Cached):
    def made(self, cache_len: int) -> Cache:
        return StaticCache(config=self.config, max_cache_len=cache_len)


class DynamicSdpa(_Dynamic):
    """`DynamicCache` with SDPA."""

    attention = "sdpa"


class DynamicFlex(_Dynamic):
    """`DynamicCache` with flex_attention."""

    attention = "flex_attention"


class StaticSdpa(_Static):
    """`StaticCache` with SDPA."""

    attention = "sdpa"


class StaticFlex(_Static):
    """`StaticCache` with flex_attention."""

    attention = "flex_attention"
