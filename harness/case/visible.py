"""Which slots a query may attend, computed from its position alone.

This is the oracle's statement of the rule, by which every path is judged. The rule is stated again
in ``harness.paths.masks`` (FlexAttention and SDPA), in ``harness.decoding.block_mask`` with
arguments from ``harness.paths.calls`` (the fixed path) and in ``harness.case.masks`` (text of
standalone scripts). The oracle shares no code with them, so that a mistake in one statement shows
as a disagreement with the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.case import DecodeCase, stated

PAIRS = 2**22  # pairs of a query token and a slot that are looked at together

# Each rule says whether a token at position ``t`` may attend slot ``j``; a window counts the token
# itself.
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

    ``slots`` holds the ``j``. A causal token may attend ``j`` iff ``j <= t``; every other mask but
    ``prefix`` demands that too, and more:

    - ``window:W``: ``j > t - W`` (W counts the token itself);
    - ``sinks:W:N``: ``j > t - W`` or ``j < N``;
    - ``prefix:P``: instead, ``j <= t`` or ``j < P``;
    - ``document:L``: ``j // L == t // L`` (documents of L slots, packed);
    - ``dilated:W:R``: ``j > t - W`` and ``t - j`` is a multiple of R.

    Args:
        changed: arguments of the mask in place of the case's; tensors are broadcast as well.

    Raises:
        UnknownKind: for a kind of mask that is not stated here.
    """
    rule = stated(_RULES, case.mask_kind.name, "the rule which slots are visible")
    return rule(t, slots, **(case.mask_arguments | changed))


def visible_slots(case: DecodeCase, sequence: int, slots: Tensor | None = None) -> Tensor:
    """Bool ``[Q, n]``: whether query token ``i`` of ``sequence``, at ``input_pos + i``, may attend
    slot ``slots[j]``; all slots by default. An idle sequence (``input_pos == -1``) attends nothing,
    whatever the mask.
    """
    slots = torch.arange(case.cache_len) if slots is None else slots
    position = case.input_pos[sequence]
    if position < 0:
        return torch.zeros(case.q_len, slots.numel(), dtype=torch.bool)
    t = torch.arange(position, position + case.q_len).unsqueeze(1)
    return visible(case, t, slots)


def attended(case: DecodeCase, sequence: int) -> Tensor:
    """Bool ``[S]``: the slots that any query of the sequence may attend."""
    parts = torch.arange(case.cache_len).split(max(1, PAIRS // case.q_len))
    return torch.cat([visible_slots(case, sequence, part).any(dim=0) for part in parts])


def tail(case: DecodeCase) -> Tensor:
    """The tail, bool ``[B, S]``: the slots that no query of the sequence may attend."""
    rows = [~attended(case, b) for b in range(case.batch)]
    return torch.stack(rows) if rows else torch.empty(0, case.cache_len, dtype=torch.bool)


def written(case: DecodeCase) -> Tensor:
    """Bool ``[B, S]``: the slots up to each sequence's newest token. The tail's slots among them
    were written once, and left since, for example by a window."""
    newest = [position + case.q_len - 1 if position >= 0 else -1 for position in case.input_pos]
    return torch.arange(case.cache_len) <= torch.tensor(newest, dtype=torch.int64)[:, None]
