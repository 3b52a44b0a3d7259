"""Rounding of float64 to the dtypes in which kernels compute, and the distance of their numbers.

Dtypes are named as in ``harness.oracle.budget``; TF32 has float32's range and 10 explicit bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Significant bits, and the exponent of the smallest positive number.
_FORMATS = {
    "float64": (53, -1074),
    "float32": (24, -149),
    "tf32": (11, -136),
    "float16": (11, -24),
    "bfloat16": (8, -133),
}


def rounded(x: Tensor, dtype: str) -> Tensor:
    """``x``, float64, rounded to the nearest number of ``dtype``, ties to even; float64."""
    if dtype == "float64":
        return x
    if dtype == "tf32":
        step = spacing(x, dtype)
        return torch.round(x / step) * step
    return x.to(getattr(torch, dtype)).double()


def cut(x: Tensor, dtype: str) -> Tensor:
    """``x``, float64, rounded towards zero to a number of ``dtype``; float64."""
    step = spacing(x, dtype)
    return torch.trunc(x / step) * step


def spacing(x: Tensor, dtype: str) -> Tensor:
    """The unit in the last place of ``x``, float64, in ``dtype``: the distance of the numbers of
    that dtype in the binade of ``x``; near zero, the smallest positive number."""
    bits, smallest = _FORMATS[dtype]
    # frexp's mantissa lies in [0.5, 1).
    exponent = torch.frexp(x).exponent - bits
    return torch.ldexp(torch.ones_like(x), exponent.clamp(min=smallest))


def narrower(dtype: str, than: str) -> bool:
    """Whether ``dtype`` has fewer significant bits."""
    return _FORMATS[dtype][0] < _FORMATS[than][0]


def number(x: float, dtype: str) -> float:
    """A number rounded to the nearest one of ``dtype``."""
    return rounded(torch.tensor(x, dtype=torch.float64), dtype).item() if x else math.copysign(0, x)
