"""How far an output is from golden, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Error:
    """Measures of ``actual - golden`` over all elements.

    ``relative_l2`` is the norm of the difference over the norm of golden; ``max_abs``,
    ``mean_abs`` and ``signed_mean`` are in units of the values. ``utilisation`` is the largest
    |difference| / budget, reached at ``index`` (b, h, i, d) with the values ``actual``, ``golden``
    and the bound ``allowed``; ``beyond`` of the ``elements`` are further off than their bound. A
    nonfinite element is infinitely far off, unless it equals golden.
    """

    relative_l2: float
    max_abs: float
    mean_abs: float
    signed_mean: float
    utilisation: float
    index: tuple[int, ...]
    actual: float
    golden: float
    allowed: float
    beyond: int
    elements: int


def measure(actual: Tensor, golden: Tensor, allowed: Tensor) -> Error:
    """Measure ``actual`` (any dtype) against float64 ``golden`` with elementwise bounds
    ``allowed``; all three are on the CPU and of one shape. Without elements the error is 0."""
    if actual.numel() == 0:
        return Error(0.0, 0.0, 0.0, 0.0, 0.0, (), math.nan, math.nan, math.nan, 0, 0)
    actual = actual.double()
    same = actual == golden
    difference = torch.where(same, 0.0, actual - golden)
    size = difference.abs().nan_to_num(nan=math.inf, posinf=math.inf)
    used = torch.where(size == 0, 0.0, size / allowed)
    flat = int(used.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), used.shape))
    norm = golden.masked_fill(~golden.isfinite(), 0.0).norm().item()
    distance = size.norm().item()
    return Error(
        relative_l2=distance / norm if norm else (math.inf if distance else 0.0),
        max_abs=size.max().item(),
        mean_abs=size.mean().item(),
        signed_mean=difference.mean().item(),
        utilisation=used.flatten()[flat].item(),
        index=index,
        actual=actual[index].item(),
        golden=golden[index].item(),
        allowed=allowed[index].item(),
        beyond=int((~(used <= 1)).sum()),
        elements=used.numel(),
    )
