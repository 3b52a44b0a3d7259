"""A function for ``check`` that is imprecise."""

from __future__ import annotations

from torch import Tensor

from tests.support.imprecise import IMPRECISE


def log2_e(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Tensor:
    """Rounds log2(e) to float16, which stays within the budget of a bfloat16 output."""
    return IMPRECISE["log2-e"][0](query, key, value, input_pos)


log2_e.dtypes = {"bfloat16"}  # type: ignore[attr-defined]
log2_e.head_dims = {32}  # type: ignore[attr-defined]
