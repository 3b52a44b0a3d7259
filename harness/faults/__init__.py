"""Fault models: what really goes wrong in KV-cache decoding, with public reports of it.

Each fault is a small change of the sound call in ``harness.faults.model``, and its number, 1 to 45,
is its class. A fault planted in a path makes a mutant that the harness must catch; its prediction,
what it would put out, is compared with wrong outputs. Faults of state between calls
(``harness.faults.state``) are paths of their own.
"""

from __future__ import annotations

from harness.faults import (
    arithmetic,
    content,
    offset,
    quantised,
    rounding,
    softmax,
    splits,
    state,
    table,
    window,
)
from harness.faults.fault import Fault, FaultKind

__all__ = ["FAULTS", "Fault", "FaultKind"]

_ALL = [
    *offset.fault.faults,
    *window.fault.faults,
    *table.fault.faults,
    *splits.fault.faults,
    *content.fault.faults,
    *arithmetic.fault.faults,
    *rounding.fault.faults,
    *softmax.fault.faults,
    *state.FAULTS,
    *quantised.fault.faults,
]
FAULTS: dict[str, Fault] = {f.name: f for f in sorted(_ALL, key=lambda f: f.number)}
