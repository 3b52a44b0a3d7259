"""Blame: what is wrong with an attention call of a model, and the evidence for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Cause(enum.StrEnum):
    """What is wrong with a call, in the order in which a call comes about."""

    INPUT = "input wrong"
    POSITION = "position wrong"
    CONTENT = "cache content wrong"
    MASK = "mask wrong"
    KERNEL = "kernel wrong"


@dataclass(frozen=True)
class Blame:
    """The cause, a name for the fault where one fits, or "", and the evidence, as clauses.

    ``sequence`` and ``token`` count from 0; the query is that of the token, ``row`` its number in
    the call.
    """

    cause: Cause
    name: str
    evidence: tuple[str, ...]
    layer: int
    sequence: int
    token: int
    row: int

    @property
    def what(self) -> str:
        """The cause, with the name of the fault where there is one."""
        return f"{self.cause}: {self.name}" if self.name else str(self.cause)


def few(numbers: list[int]) -> str:
    """Numbers as text, runs joined: ``3 to 7, 9``; of many runs the first four and the last."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    texts = [str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs]
    if len(texts) > 5:
        texts = [*texts[:4], "...", texts[-1]]
    return ", ".join(texts) or "none"
