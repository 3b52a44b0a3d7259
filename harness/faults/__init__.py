"""What really goes wrong in KV-cache decoding: fault models 1 to 39, with the public reports.

Each is a small change of the sound call in ``harness.faults.model``: a mutant that the harness must
fail, and an explanation with which a wrong output is compared. Faults of state between calls
(``harness.faults.state``) are paths of their own.
"""

from __future__ import annotations

from harness.faults import arithmetic, content, offset, state, table
from harness.faults.fault import Fault, FaultKind

__all__ = ["FAULTS", "Fault", "FaultKind"]

_ALL = [
    *offset.fault.faults,
    *table.fault.faults,
    *content.fault.faults,
    *arithmetic.fault.faults,
    *state.FAULTS,
]
FAULTS: dict[str, Fault] = {f.name: f for f in sorted(_ALL, key=lambda f: f.number)}
