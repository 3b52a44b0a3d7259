"""A fault model: something that really goes wrong in decoding, and who reported it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.faults.model import Attention
from harness.paths import Path


class FaultKind(enum.StrEnum):
    """What shows a fault: the numbers of the output, an auxiliary result (logsumexp), or what a
    path promises beside its numbers (graphs, state between calls)."""

    OUTPUT = "output"
    AUXILIARY = "auxiliary"
    CONTRACT = "contract"


Change = Callable[[Attention], "Attention | None"]


@dataclass(frozen=True)
class Fault:
    """``change`` plants the fault in a sound call and gives None where the case cannot show it;
    a fault of state between calls has a ``path`` instead. ``number`` is its class among the fault
    models, ``source`` the public report behind it. A fault of ``rounding`` has fields of
    the Precision within which a path with it stays: near a tie a value may go either way."""

    name: str
    number: int
    summary: str
    remedy: str
    source: str
    change: Change = lambda attention: None
    kind: FaultKind = FaultKind.OUTPUT
    path: Callable[[], Path] | None = None
    rounding: Mapping[str, str] | None = None


class Register:
    """The faults of one module, in their order, named after their functions."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def __call__(
        self,
        number: int,
        summary: str,
        remedy: str,
        source: str,
        kind: FaultKind = FaultKind.OUTPUT,
        rounding: Mapping[str, str] | None = None,
    ) -> Callable[[Change], Change]:
        """Register the decorated function as a fault."""

        def register(change: Change) -> Change:
            name = change.__name__.replace("_", "-")
            fault = Fault(name, number, summary, remedy, source, change, kind, rounding=rounding)
            self.faults.append(fault)
            return change

        return register
