"""Fault: something that really goes wrong in decoding, with its remedy and a public report."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.case import DTYPES
from harness.faults.model import Attention
from harness.paths import Path


class FaultKind(enum.StrEnum):
    """Where a fault shows: in the output's numbers, in an auxiliary result (the logsumexp), or in
    what a path promises beside its numbers (one graph, no state between calls)."""

    OUTPUT = "output"
    AUXILIARY = "auxiliary"
    CONTRACT = "contract"


Change = Callable[[Attention], "Attention | None"]


@dataclass(frozen=True)
class Fault:
    """One fault model.

    ``change`` plants the fault in a sound call and gives None where the case cannot show it; a
    fault of state between calls has a ``path`` instead. ``number`` is the fault's class, ``source``
    the public report behind it. A fault that rounds has in ``rounding`` the fields of ``Precision``
    that give a budget for a path with the fault: a path may round a value near a tie either way.
    One that is ``quantised`` needs a quantised cache to show, and each needs inputs of one of
    its ``dtypes``."""

    name: str
    number: int
    summary: str
    remedy: str
    source: str
    change: Change = lambda attention: None
    kind: FaultKind = FaultKind.OUTPUT
    path: Callable[[], Path] | None = None
    rounding: Mapping[str, str] | None = None
    quantised: bool = False
    dtypes: tuple[str, ...] = DTYPES


class Register:
    """A decorator that collects the faults of one module, each named after its function; those of
    ``quantised`` caches show on no others."""

    def __init__(self, *, quantised: bool = False) -> None:
        self.faults: list[Fault] = []
        self._quantised = quantised

    def __call__(
        self,
        number: int,
        summary: str,
        remedy: str,
        source: str,
        kind: FaultKind = FaultKind.OUTPUT,
        rounding: Mapping[str, str] | None = None,
        *,
        dtypes: tuple[str, ...] = DTYPES,
    ) -> Callable[[Change], Change]:
        """Register the decorated function as the ``change`` of a fault with these fields."""

        def register(change: Change) -> Change:
            name = change.__name__.replace("_", "-")
            fault = Fault(
                name,
                number,
                summary,
                remedy,
                source,
                change,
                kind,
                rounding=rounding,
                quantised=self._quantised,
                dtypes=dtypes,
            )
            self.faults.append(fault)
            return change

        return register
