"""Which slots a query may attend, from the position arithmetic alone.

The rule that everything is judged by. What is judged states it again, ``harness.paths.masks`` for
FlexAttention and ``harness.decoding.block_mask`` for the fixed path, on purpose: a mistake in
either shows as a disagreement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.case import DecodeCase


def visible(case: DecodeCase, t: Tensor, slots: Tensor) -> Tensor:
    """Whether a query token at position ``t`` may attend slot ``j``; the two are broadcast.

    It may iff ``j <= t`` and, for

    - ``window:W``: ``j > t - W`` (W counts the token itself);
    - ``sinks:W:N``: ``j > t - W`` or ``j < N``;
    - ``prefix:P``: ``j <= t`` or ``j < P``;
    - ``document:L``: ``j // L == t // L`` (documents of L slots, packed).
    """
    past = slots <= t
    name, arguments = case.mask_spec
    if name == "window":
        return past & (slots > t - arguments[0])
    if name == "sinks":
        window, sinks = arguments
        return past & ((slots > t - window) | (slots < sinks))
    if name == "prefix":
        return past | (slots < arguments[0])
    if name == "document":
        return past & (slots // arguments[0] == t // arguments[0])
    return past


def visible_slots(case: DecodeCase, sequence: int) -> Tensor:
    """Bool ``[Q, S]``: whether query token ``i`` of ``sequence``, at ``input_pos + i``, may attend
    slot ``j``. An idle sequence (``input_pos == -1``) attends nothing, whatever the mask.
    """
    position = case.input_pos[sequence]
    if position < 0:
        return torch.zeros(case.q_len, case.cache_len, dtype=torch.bool)
    t = torch.arange(position, position + case.q_len).unsqueeze(1)
    return visible(case, t, torch.arange(case.cache_len))


def tail(case: DecodeCase) -> Tensor:
    """Bool ``[B, S]``: the slots of each sequence that none of its queries may attend."""
    rows = [~visible_slots(case, b).any(dim=0) for b in range(case.batch)]
    return torch.stack(rows) if rows else torch.empty(0, case.cache_len, dtype=torch.bool)
