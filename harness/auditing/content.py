"""What a cache holds: which token's key and value lie in each slot, told by comparing them with
those of the references.

Rows are matched to their nearest neighbour, and only where it is at most half as far away as the
second nearest (the ratio test of Lowe, "Distinctive image features from scale-invariant keypoints",
2004, section 7.1), so that no tolerance is needed that would depend on a dtype or a model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RATIO = 0.5
NOTHING = -1


def nearest(rows: Tensor, candidates: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The index of the candidate ``[M, N]`` that each row ``[R, N]`` is, int64 ``[R]``, or
    ``NOTHING``.

    Candidates that agree within rounding count as one, the first: where positions are not encoded
    in queries and keys, those of a shifted sequence are the same but for last bits. A row of
    ``dtype`` holds its numbers to the epsilon of it, and references, which are whole forwards in
    float64, are told apart to that of float32 at most.
    """
    if not candidates.size(0):
        return torch.full((rows.size(0),), NOTHING)
    candidates = candidates.double()
    distance = _distances(rows.double(), candidates)
    # A row of zeros, or anything far from all, is as near to one as to the other. With a single
    # candidate its own length is what a row that is something else would be away.
    length = candidates.norm(dim=-1)
    best, index = distance.min(-1)
    resolution = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    same = _distances(candidates[index], candidates) <= resolution * length[index].unsqueeze(-1)
    second = distance.masked_fill(same, math.inf).amin(-1).minimum(length.amin())
    known = (best <= _RATIO * second) & best.isfinite()
    return torch.where(known, same.long().argmax(-1), NOTHING)


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def cache_rows(key: Tensor, value: Tensor) -> Tensor:
    """Key ``[Hkv, S, D]`` and value ``[Hkv, S, Dv]`` of each slot, float64
    ``[S, Hkv, D + Dv]``."""
    return torch.cat([key, value], -1).transpose(0, 1).double()
