"""The mask of a call next to the slots that were written since the last call of its layer."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.auditing.blame import Blame, Cause, few
from harness.auditing.call import AttentionCall


def own_slots(before: Tensor | None, call: AttentionCall) -> Tensor | None:
    """The slots ``[Q]`` into which the tokens of the queries were written, or None where that
    cannot be told: keys that were there have moved, more changed than there are queries, or every
    query sees all keys there are, as in an encoder."""
    key, count = call.key, call.query.size(2)
    if before is None and key.size(2) == count and count > 1 and call.visible.all():
        return None
    old = torch.zeros_like(key)
    if before is not None:
        if before.shape[:2] != key.shape[:2] or before.size(2) > key.size(2):
            return None
        old[:, :, : before.size(2)] = before
    changed = (key != old).any(-1).any(1)
    if not (changed == changed[0]).all():
        return None
    slots = changed[0].nonzero().flatten()
    return slots if slots.numel() == count else None


def misplaced(call: AttentionCall, own: Tensor) -> Blame | None:
    """What is wrong with a mask that hides a query's ``own`` slot ``[Q]``, or shows slots after it;
    None where it does neither."""
    later = torch.arange(call.key.size(2)) > own.unsqueeze(1)
    for b in range(call.query.size(0)):
        visible = call.visible[b].any(0)
        beyond, blind = visible & later, ~visible.gather(1, own.unsqueeze(1)).squeeze(1)
        # A row that sees nothing is padding.
        wrong = beyond.any(-1) | (blind & visible.any(-1))
        if not wrong.any():
            continue
        row = int(wrong.nonzero()[0])
        slots = beyond[row].nonzero().flatten().tolist()
        evidence = f"the query whose key lies in slot {int(own[row])} "
        if slots:
            name = "offset-one-high" if len(slots) == 1 else "offset-high"
            evidence += f"sees slots {few(slots)} after it"
        else:
            name = ""
            evidence += "does not see it"
        return Blame(Cause.MASK, name, (evidence,), call.layer, b, int(own[row]), row)
    return None
