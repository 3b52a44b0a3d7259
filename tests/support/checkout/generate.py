"""A stand-in for the ``generate.py`` of a gpt-fast checkout: its names and calls, none of its
code."""

from __future__ import annotations

from typing import Any

import torch
from model import Transformer
from tokenizer import get_tokenizer  # noqa: F401  # as gpt-fast does
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


def causal_mask(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Slots up to the query's own."""
    return q >= kv


def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token, and the logits."""
    return logits[:, -1].argmax(-1, keepdim=True), logits


def prefill(model: Transformer, ids: Tensor, input_pos: Tensor) -> Tensor:
    """The first new token after a prompt."""
    rows, slots = len(input_pos), model.max_seq_length
    mask = create_block_mask(causal_mask, 1, 1, rows, slots, device="cpu")
    return sample(model(mask, ids, input_pos))[0]


def decode_one_token(
    model: Transformer, ids: Tensor, input_pos: Tensor, block_mask: BlockMask
) -> tuple[Tensor, Tensor]:
    """The next token; ``block_mask`` is square over all slots."""
    row = block_mask[:, :, input_pos // block_mask.BLOCK_SIZE[0]]
    row.mask_mod, row.seq_lengths = block_mask.mask_mod, (1, model.max_seq_length)
    return sample(model(row, ids, input_pos))


def model_forward(model: Any, ids: Tensor, input_pos: Tensor) -> torch.Tensor:
    """Several tokens at once, which needs a mask that nobody gives."""
    return model(ids, input_pos)  # type: ignore[no-any-return]
