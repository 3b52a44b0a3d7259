"""Which slots a query may attend, from the position arithmetic alone.

The rule that everything is judged by. What is judged states it again, on purpose, so that a mistake
in either shows as a disagreement: ``harness.paths.masks`` for FlexAttention and SDPA,
``harness.decoding.block_mask`` for the fixed path with its arguments from ``harness.paths.calls``,
and the text of standalone scripts in ``harness.case.masks``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.case import DecodeCase, stated

# Whether a token at position ``t`` attends slot ``j``; W counts the token itself.
_RULES: dict[str, Callable[..., Tensor]] = {
    "causal": lambda t, j: j <= t,
    "window": lambda t, j, window: (j <= t) & (j > t - window),
    "sinks": lambda t, j, window, sinks: (j <= t) & ((j > t - window) | (j < sinks)),
    "prefix": lambda t, j, prefix: (j <= t) | (j < prefix),
    "document": lambda t, j, document: (j <= t) & (j // document == t // document),
    "dilated": lambda t, j, window, dilation: (
        (j <= t) & (j > t - window) & ((t - j) % dilation == 0)
    ),
}


def visible(case: DecodeCase, t: Tensor, slots: Tensor, **changed: int | Tensor) -> Tensor:
    """Whether a query token at position ``t`` may attend slot ``j``; the two are broadcast.

    It may iff ``j <= t`` and, for

    - ``window:W``: ``j > t - W`` (W counts the token itself);
    - ``sinks:W:N``: ``j > t - W`` or ``j < N``;
    - ``prefix:P``: ``j <= t`` or ``j < P``;
    - ``document:L``: ``j // L == t // L`` (documents of L slots, packed);
    - ``dilated:W:R``: ``j > t - W`` and ``t - j`` is a multiple of R.

    Args:
        changed: arguments of the mask, in place of the case's own; broadcast too where tensors.

    Raises:
        UnknownKind: for a mask that this rule does not know.
    """
    rule = stated(_RULES, case.mask_kind.name, "the rule which slots are visible")
    return rule(t, slots, **(case.mask_arguments | changed))


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
