"""Arithmetic that is narrower than float32, as kernels have it: sound where it is declared."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.functions.parts import filled, finished, scores, shifted, times


def weighted_in_dtype(s: Tensor, value_cache: Tensor, query: Tensor) -> Tensor:
    """As in flash kernels: the exponentials are rounded to the query's dtype for the product with
    the values, their sum is not."""
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    weighted = times(e.to(query.dtype).float(), value_cache.float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), query)


def exponentials_in_dtype(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None, **options: float
) -> Tensor:
    """The arithmetic of flash kernels, which needs no declaration."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p, alibi_slopes=alibi_slopes, **options)
    return weighted_in_dtype(s, v[:, :, :n], q)


def query_scaled_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The query is scaled before the product, and rounded to its dtype."""
    n = filled(k, p, q.size(2))
    s = scores((q * q.size(3) ** -0.5).to(q.dtype), k[:, :, :n], p, scale=1.0)
    return weighted_in_dtype(s, v[:, :, :n], q)


def scores_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are rounded to the query's dtype."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p).to(q.dtype).float()
    return weighted_in_dtype(s, v[:, :, :n], q)
