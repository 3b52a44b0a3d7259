"""mask_mods, score_mods and block masks for FlexAttention, from the tensors of a case.

Positions are captured as tensors, never as Python ints: an int is one graph per position. The
rule of ``harness.case.visible`` stands here a second time, on purpose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from harness.inputs import Inputs

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def causal_without_offset(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """The report's mask for the sliced cache (gpt-fast#233): query ``i`` at position ``i``."""
    return q >= kv


def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """No mask at all."""
    return kv >= 0


def mask_mod(inputs: Inputs) -> MaskMod:
    """The case's mask, with query ``q`` of sequence ``b`` at ``input_pos[b] + q``."""
    case = inputs.case
    name, arguments = case.mask_spec
    # An idle sequence sits so far left that every slot is in its future.
    nowhere = -case.cache_len - case.q_len
    start = inputs.input_pos.masked_fill(inputs.input_pos < 0, nowhere)

    def causal(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return kv <= start[b] + q

    def window(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        t = start[b] + q
        return (kv <= t) & (t - kv < arguments[0])

    def sinks(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        t = start[b] + q
        return (kv <= t) & ((t - kv < arguments[0]) | (kv < arguments[1]))

    def prefix(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        t = start[b] + q
        return (kv <= t) | ((kv < arguments[0]) & (t >= 0))

    same_document = document_mod(inputs)

    def document(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        t = start[b] + q
        return (kv <= t) & same_document(b, h, t, kv)

    mods = (causal, window, sinks, prefix, document)
    return {mod.__name__: mod for mod in mods}[name]


def document_mod(inputs: Inputs) -> MaskMod:
    """Whether slot ``kv`` lies in the document of position ``q``; documents are packed."""
    case = inputs.case
    length = case.mask_spec[1][0] if case.mask_spec[0] == "document" else case.cache_len
    document_id = torch.arange(case.cache_len, device=inputs.input_pos.device) // length
    last = case.cache_len - 1

    def same_document(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        # q and kv run over whole blocks, so past the end of document_id.
        return document_id[q.clamp(0, last)] == document_id[kv.clamp(max=last)]

    return same_document


def absolute_score_mod(inputs: Inputs) -> ScoreMod | None:
    """The case's score_mods in their order, ``q`` being the query's position; or None."""
    specs = inputs.case.score_specs
    if not specs:
        return None
    slopes, table = inputs.alibi_slopes, inputs.bias_table

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        distance = q - kv
        for name, arguments in specs:
            if name == "softcap":
                score = arguments[0] * torch.tanh(score / arguments[0])
            elif name == "alibi":
                assert slopes is not None
                score = score - slopes[h] * distance
            elif name == "bias":
                assert table is not None
                score = score + table[h, distance.clamp(0, arguments[0] - 1)]
            else:
                score = score + arguments[0]
        return score

    return mod


def score_mod(inputs: Inputs) -> ScoreMod | None:
    """The case's score_mods, with query ``q`` of sequence ``b`` at ``input_pos[b] + q``."""
    mod, input_pos = absolute_score_mod(inputs), inputs.input_pos
    if mod is None:
        return None
    return lambda score, b, h, q, kv: mod(score, b, h, input_pos[b] + q, kv)


def fresh_block_mask(inputs: Inputs, mod: MaskMod, kv_len: int) -> BlockMask:
    """``create_block_mask`` for this step's positions: ``[B, 1, Q, kv_len]``."""
    case = inputs.case
    return create_block_mask(
        mod,
        B=case.batch,
        H=None,
        Q_LEN=case.q_len,
        KV_LEN=kv_len,
        device=inputs.query.device,
        BLOCK_SIZE=case.block_size,
    )


def row_block_mask(inputs: Inputs) -> BlockMask:
    """gpt-fast's recipe: one square causal mask, of which each step takes the row of its block.

    The row's mask_mod and lengths are put right by hand, since a sliced BlockMask keeps neither.
    """
    case, input_pos = inputs.case, inputs.input_pos
    square = create_block_mask(
        causal_without_offset,
        B=1,
        H=None,
        Q_LEN=case.cache_len,
        KV_LEN=case.cache_len,
        device=input_pos.device,
        BLOCK_SIZE=case.block_size,
    )
    row = square[:, :, input_pos[:1] // case.block_size[0]]
    row.mask_mod = mask_mod(inputs)
    row.seq_lengths = (1, case.cache_len)
    return row


def from_kv_blocks(inputs: Inputs, mod: MaskMod) -> BlockMask:
    """A table listing every block of the cache as partial, so that ``mod`` alone decides."""
    case = inputs.case
    q_block, kv_block = case.block_size
    rows, columns = -(-case.q_len // q_block), -(-case.cache_len // kv_block)
    indices = torch.arange(columns, dtype=torch.int32, device=inputs.query.device)
    return BlockMask.from_kv_blocks(
        torch.full((case.batch, 1, rows), columns, dtype=torch.int32, device=indices.device),
        indices.expand(case.batch, 1, rows, columns).contiguous(),
        BLOCK_SIZE=case.block_size,
        mask_mod=mod,
        seq_lengths=(case.q_len, case.cache_len),
    )
