"""The C++ kernels that compiled FlexAttention runs on a CPU: whether they run, and one defect.

Their product of query and key comes in tiles of 16 slots. Where the end of a KV block or of the
cache cuts a tile short, one way of computing it (torch 2.13, ``tail_n`` in inductor's
``cpp_micro_gemm.py``) still reads and writes 16 slots: keys behind the end of the cache, and scores
over the running maximum of the softmax, which lies behind the scores. It is taken in heads of less
than 24 dims where a vector's lanes divide the head dim and what is left of the tile. A vector of
AVX-512 has 16 lanes, which divide nothing that is left; one of AVX2 has 8.
"""

from collections.abc import Callable
from typing import Any

import torch

TILE = 16
LEAST_SAFE_HEAD_DIM = 24


def _constant(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compiler.assume_constant_result``, which imports dynamo: seconds that a program which
    compiles nothing need not spend."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def cpp_kernels(device: torch.device) -> bool:
    """Whether flex_attention compiled for this device runs inductor's C++ kernels.

    Those of a GPU are written in Triton, for which a CPU's can be set as well.
    """
    from torch._inductor import config

    return device.type == "cpu" and config.cpu_backend == "cpp"


@_constant
def lanes() -> int:
    """How many float32 numbers a vector has in the kernels that inductor generates here."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    return int(pick_vec_isa().nelements(torch.float))


def stays_in_bounds(head_dim: int, kv_block: int, cache_len: int) -> bool:
    """Whether every tile of keys is whole or computed no further than it reaches; an expression of
    symbols where ``cache_len`` is one."""
    # The lanes are asked for last: finding them out compiles a test program.
    if head_dim >= LEAST_SAFE_HEAD_DIM or lanes() >= TILE or head_dim % lanes():
        return True
    if kv_block % TILE:
        return False
    return (cache_len % TILE == 0) | (cache_len % lanes() != 0)
