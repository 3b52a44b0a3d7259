"""Junk in newly allocated memory, so that output rows that are never written cannot look right."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# These are of glibc's malloc.h. New memory is filled with the complement of the value, bytes of
# 0xfe, which read as about -1.7e38 in float32 and bfloat16 and as NaN in float16.
M_PERTURB = -6
PERTURB = 0x01
JUNK = 0xFE  # every byte of new memory
_CUDA_SIZES = [2**exponent for exponent in range(9, 27)]


@contextmanager
def junk_memory(device: str | torch.device) -> Iterator[None]:
    """A context in which memory from torch's allocator holds junk until it is written.

    On the CPU this needs glibc; with another C library the allocator is left as it is. On CUDA,
    blocks of every size class are filled and given back to the caching allocator.
    """
    if torch.device(device).type == "cuda":
        blocks = [
            torch.full((size,), JUNK, dtype=torch.uint8, device=device) for size in _CUDA_SIZES
        ]
        del blocks
        yield
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(M_PERTURB, PERTURB)
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)
