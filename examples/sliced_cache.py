"""A decode step by FlexAttention over a whole cache, and again over the slots that are filled.

A snippet as people put into bug reports: ``python -m harness audit examples/sliced_cache.py`` says
which of the two attends what.
"""

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

HEADS, DIM, SLOTS, FILLED = 4, 32, 256, 100

torch.manual_seed(0)
query = torch.randn(1, HEADS, 1, DIM)
keys, values = torch.zeros(2, 1, HEADS, SLOTS, DIM)
keys[:, :, :FILLED] = torch.randn(1, HEADS, FILLED, DIM)
values[:, :, :FILLED] = torch.randn(1, HEADS, FILLED, DIM)


def up_to_the_newest(b, h, q_idx, kv_idx):
    """The query is that of the newest token."""
    return q_idx + FILLED - 1 >= kv_idx


def causal(b, h, q_idx, kv_idx):
    """What a prompt uses."""
    return q_idx >= kv_idx


whole = flex_attention(
    query,
    keys,
    values,
    block_mask=create_block_mask(up_to_the_newest, None, None, 1, SLOTS, device="cpu"),
)
sliced = flex_attention(
    query,
    keys[:, :, :FILLED].clone(),
    values[:, :, :FILLED].clone(),
    block_mask=create_block_mask(causal, None, None, 1, FILLED, device="cpu"),
)
print(f"off by {(whole - sliced).abs().max():.2f}")
