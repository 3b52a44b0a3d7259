"""The fixed path: decode attention over a KV cache with static shapes. It needs torch alone."""

from harness.decoding.attention import decode_attention, offset_score_mod
from harness.decoding.block_mask import decode_block_mask
from harness.decoding.kv_cache import CacheView, KVCache

__all__ = [
    "CacheView",
    "KVCache",
    "decode_attention",
    "decode_block_mask",
    "offset_score_mod",
]
