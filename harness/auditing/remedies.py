"""Remedies: what to change where an audit has named a fault, or at least its cause.

Faults that are fault models too have the remedy of these.
"""

from __future__ import annotations

from harness.auditing.blame import Blame, Cause
from harness.faults import FAULTS

_NAMED = {
    "padding-attended": "hide the slots of padding in every forward, not in the first alone",
    "rolled-back-attended": "the mask ends at the position after the rollback, not at the last slot"
    " that was ever written",
    "offset-high": "read the position before it moves on, and not from a tensor that changes"
    " between making the mask and using it",
    "window-wide": "a window of W holds the token itself and W - 1 before it",
    "other-sequence": "index the cache by the sequence's own number in the batch",
    "other-layer": "give each layer a cache of its own",
    "heads-exchanged": "write and read KV heads in one order",
    "stale-content": "after a rollback write new tokens over the slots of the draft",
    "rotary-off": "encode the key at its own slot",
}
_CAUSES = {
    Cause.INPUT: "look before this call: its query is already another",
    Cause.POSITION: "encode query and keys for the positions of their tokens",
    Cause.CONTENT: "compare what is written to the cache with the tokens of the uncached forward",
    Cause.MASK: "compare the mask with the positions of the tokens that the slots hold",
    Cause.KERNEL: "give the kernel these tensors alone: python -m harness check",
}


def remedy(blame: Blame) -> str:
    """What to change, in a clause: for the fault where it has a name, else for its cause."""
    return remedy_of(blame.name) if blame.name else _CAUSES[blame.cause]


def remedy_of(name: str) -> str:
    """What to change where a fault has this name."""
    return FAULTS[name].remedy if name in FAULTS else _NAMED[name]
