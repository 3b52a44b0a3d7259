"""How an output lies about golden in units in the last place, element by element."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from harness.oracle.rounding import rounded, spacing


@dataclass(frozen=True)
class Places:
    """Of each element: ``error``, signed, and ``outward``, positive away from zero, in units in the
    last place of golden in the output's dtype; ``distance``, how far it is from golden rounded
    once, in the same units; and whether it is ``exact``, which is equal to that. All have the
    output's shape."""

    error: Tensor
    distance: Tensor
    exact: Tensor
    outward: Tensor


def in_last_place(output: Tensor, golden: Tensor, dtype: str) -> Places:
    """Compare an output of ``dtype`` with golden, float64, of one shape; both on the CPU."""
    found, unit, nearest = output.double(), spacing(golden, dtype), rounded(golden, dtype)
    error = (found - golden) / unit
    return Places(error, (found - nearest).abs() / unit, found == nearest, error * golden.sign())
