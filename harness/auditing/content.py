"""What a cache holds: which token's key and value lie in each slot, told by comparing them with
those of the references.

Rows are matched to their nearest neighbour, and only where it is at most half as far away as the
second nearest (the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints",
2004, section 7.1), so that no tolerance is needed that would depend on a dtype or a model.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RATIO = 0.5
NOTHING = -1


def nearest(rows: Tensor, candidates: Tensor) -> Tensor:
    """The index of the candidate ``[M, N]`` that each row ``[R, N]`` is, int64 ``[R]``, or
    ``NOTHING``.

    Candidates that are the same bit for bit count as one, the first.
    """
    if not candidates.size(0):
        return torch.full((rows.size(0),), NOTHING)
    candidates, owner = _distinct(candidates.double())
    distance = torch.cdist(rows.double(), candidates, compute_mode="donot_use_mm_for_euclid_dist")
    # A row of zeros, or anything far from all, is as near to one as to the other. With a single
    # candidate its own length is what a row that is something else would be away.
    away = candidates.norm(dim=-1).expand_as(distance)
    distance = torch.cat([distance, away.amin(-1, keepdim=True)], -1)
    two = distance.topk(2, largest=False)
    best, second = two.values.unbind(-1)
    index = two.indices[:, 0]
    known = (best <= _RATIO * second) & (index < len(owner)) & best.isfinite()
    return torch.where(known, owner[index.clamp(max=len(owner) - 1)], NOTHING)


def _distinct(candidates: Tensor) -> tuple[Tensor, Tensor]:
    unique, inverse = torch.unique(candidates, dim=0, return_inverse=True)
    first = torch.full((unique.size(0),), candidates.size(0))
    first.scatter_reduce_(0, inverse, torch.arange(candidates.size(0)), "amin")
    return unique, first


def cache_rows(key: Tensor, value: Tensor) -> Tensor:
    """Key ``[Hkv, S, D]`` and value ``[Hkv, S, Dv]`` of each slot, float64
    ``[S, Hkv, D + Dv]``."""
    return torch.cat([key, value], -1).transpose(0, 1).double()
