"""mask_mods, score_mods and block masks for FlexAttention, from the tensors of a case.

This module states for the paths which slots a query attends and what happens to its score. The
first is stated again in ``harness.case.visible`` (the oracle), ``harness.case.masks`` (scripts) and
``harness.decoding.block_mask`` with ``harness.paths.calls`` (the fixed path), the second in
``harness.oracle.golden``, ``harness.faults.model`` and ``harness.case.scores``. The oracle shares
no code with this module, so that a mistake in one statement shows as a disagreement.

Positions are captured as tensors, never as Python ints, which would take a graph per position.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from harness.case import stated
from harness.inputs import Inputs

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def causal_without_offset(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """The report's mask for the sliced cache (gpt-fast#233): query ``i`` at position ``i``."""
    return q >= kv


def starts(inputs: Inputs) -> Tensor:
    """The position ``[B]`` of each sequence's first query token; of an idle one, so far below 0
    that every slot lies after its tokens."""
    nowhere = -inputs.case.cache_len - inputs.case.q_len
    return inputs.input_pos.masked_fill(inputs.input_pos < 0, nowhere)


def rule(inputs: Inputs) -> MaskMod:
    """The case's mask as a mask_mod whose ``q`` is the query's position.

    Raises:
        UnknownKind: for a mask that is not stated here.
    """
    case = inputs.case
    make = stated(_MASK_MODS, case.mask_kind.name, "the mask_mods for flex_attention")
    return make(inputs, **case.mask_arguments)


def mask_mod(inputs: Inputs) -> MaskMod:
    """The case's mask, with query ``q`` of sequence ``b`` at ``input_pos[b] + q``; raises as
    ``rule`` does."""
    start = starts(inputs)
    return placed(rule(inputs), start[0].clone() if inputs.case.capture == "number" else start)


def placed(shown: MaskMod, start: Tensor) -> MaskMod:
    """A mask_mod over absolute positions as one whose query ``q`` is at ``start[b] + q``, or at
    ``start + q`` where that is one number for all sequences."""

    def mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return shown(b, h, (start[b] if start.dim() else start) + q, kv)

    return mod


def _causal(inputs: Inputs) -> MaskMod:
    return lambda b, h, t, kv: kv <= t


def _window(inputs: Inputs, window: int) -> MaskMod:
    return lambda b, h, t, kv: (kv <= t) & (t - kv < window)


def _sinks(inputs: Inputs, window: int, sinks: int) -> MaskMod:
    return lambda b, h, t, kv: (kv <= t) & ((t - kv < window) | (kv < sinks))


def _prefix(inputs: Inputs, prefix: int) -> MaskMod:
    return lambda b, h, t, kv: (kv <= t) | ((kv < prefix) & (t >= 0))


def _document(inputs: Inputs, document: int) -> MaskMod:
    same_document = document_mod(inputs, document)
    return lambda b, h, t, kv: (kv <= t) & same_document(b, h, t, kv)


def _dilated(inputs: Inputs, window: int, dilation: int) -> MaskMod:
    near, every = _window(inputs, window), dilation_mod(dilation)
    return lambda b, h, t, kv: near(b, h, t, kv) & every(b, h, t, kv)


# A mask_mod over absolute positions ``t``, which are negative in an idle sequence, from the
# arguments of each kind of mask. The module's docstring names the other statements of the rule.
_MASK_MODS: dict[str, Callable[..., MaskMod]] = {
    "causal": _causal,
    "window": _window,
    "sinks": _sinks,
    "prefix": _prefix,
    "document": _document,
    "dilated": _dilated,
}


def document_mod(inputs: Inputs, length: int) -> MaskMod:
    """A mask_mod: whether slot ``kv`` lies in the document of position ``t``, where documents of
    ``length`` slots are packed. They are looked up in a captured table, as in users' mask_mods."""
    cache_len = inputs.case.cache_len
    document_id = torch.arange(cache_len, device=inputs.input_pos.device) // length
    last = cache_len - 1

    def same_document(b: Tensor, h: Tensor, t: Tensor, kv: Tensor) -> Tensor:
        # t and kv run over whole blocks, and so past the end of document_id.
        return document_id[t.clamp(0, last)] == document_id[kv.clamp(max=last)]

    return same_document


def dilation_mod(dilation: int) -> MaskMod:
    """A mask_mod: whether slot ``kv`` is a multiple of ``dilation`` away from position ``t``."""
    return lambda b, h, t, kv: (t - kv) % dilation == 0


# The score after one kind of score_mod, from ``(score, h, distance, parameter, **arguments)``; the
# module's docstring names the other statements. A sink leaves scores as they are: its logit is
# applied to the finished output.
_SCORE_MODS: dict[str, Callable[..., Tensor]] = {
    "softcap": lambda s, h, distance, _, softcap: softcap * torch.tanh(s / softcap),
    "alibi": lambda s, h, distance, slopes: s - slopes[h] * distance,
    "bias": lambda s, h, distance, table, bias: s + table[h, distance.clamp(0, bias - 1)],
    "shift": lambda s, h, distance, _, shift: s + shift,
    "sink": lambda s, h, distance, _: s,
}


def absolute_score_mod(inputs: Inputs) -> ScoreMod | None:
    """The case's score_mods as one score_mod whose ``q`` is the query's position, or None.

    Raises:
        UnknownKind: for a score_mod that is not stated here.
    """
    steps = [
        (
            stated(_SCORE_MODS, kind.name, "the score_mods for flex_attention"),
            inputs.parameter(kind.name) if kind.parameter else None,
            inputs.case.scores[kind.name],
        )
        for kind in inputs.case.score_kinds
        if not kind.column
    ]
    if not steps:
        return None

    def mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        for step, parameter, arguments in steps:
            score = step(score, h, q - kv, parameter, **arguments)
        return score

    return mod


def score_mod(inputs: Inputs) -> ScoreMod | None:
    """The case's score_mods as one, with query ``q`` of sequence ``b`` at ``input_pos[b] + q``;
    None without any."""
    mod, input_pos = absolute_score_mod(inputs), inputs.input_pos
    if mod is None:
        return None
    return lambda score, b, h, q, kv: mod(score, b, h, input_pos[b] + q, kv)


def fresh_block_mask(
    inputs: Inputs,
    mod: MaskMod,
    kv_len: int,
    create: Callable[..., BlockMask] = create_block_mask,
) -> BlockMask:
    """A block mask ``[B, 1, Q, kv_len]`` for this step's positions, by ``create_block_mask`` or a
    compiled one."""
    case = inputs.case
    return create(
        mod,
        B=case.batch,
        H=None,
        Q_LEN=case.q_len,
        KV_LEN=kv_len,
        device=inputs.query.device,
        BLOCK_SIZE=case.block_size,
    )


# The block mask that was made last, by all that it depends on, while runs share it.
_SHARED: list[dict[tuple[Any, ...], BlockMask]] = []


@contextmanager
def shared_block_masks() -> Iterator[None]:
    """A context for runs on inputs of one geometry and positions, whose values alone differ: they
    share the tables of a block mask, since making them eagerly takes longer than most calls."""
    _SHARED.append({})
    try:
        yield
    finally:
        _SHARED.pop()


def shared(inputs: Inputs, make: Callable[[Inputs], BlockMask]) -> BlockMask:
    """The block mask that ``make`` makes, with tables that runs share where they are to, and a
    mask_mod that captures these inputs."""
    if not _SHARED:
        return make(inputs)
    key = (inputs.case.geometry, inputs.case.input_pos, inputs.query.device)
    if key not in _SHARED[-1]:
        _SHARED[-1][key] = make(inputs)
        return _SHARED[-1][key]
    again = copy.copy(_SHARED[-1][key])
    again.mask_mod = mask_mod(inputs)
    return again


def row_block_mask(inputs: Inputs) -> BlockMask:
    """gpt-fast's recipe: one square causal block mask, of which each step takes its block's row.

    The row's mask_mod and lengths are set afterwards, since a sliced BlockMask keeps neither.
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
    """A block mask that lists every block of the cache as partial, so that ``mod`` alone decides
    which slots are attended."""
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
