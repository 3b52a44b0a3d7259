"""Functions over quantised caches: sound ones of different arithmetic, and planted faults."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SUPPORTS = {"fp8", "int8", "gqa", "ragged", "chunk"}
# Scales and zero points of one cache.
Scales = tuple[Tensor | None, Tensor | None]


def _spread(x: Tensor) -> Tensor:
    return x.view(1, -1, 1, 1) if x.dim() == 1 else x[..., None] if x.dim() else x


def _numbers(codes: Tensor, scale: Tensor | None, zero: Tensor | None) -> Tensor:
    if scale is None:
        return codes.float()
    shifted = codes.float() if zero is None else codes.float() - _spread(zero)
    return shifted * _spread(scale)


def _allowed(query: Tensor, key: Tensor, input_pos: Tensor) -> Tensor:
    t = input_pos[:, None, None, None] + torch.arange(query.size(2))[:, None]
    return torch.arange(key.size(2)) <= t


def dequantised(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    key_zero_point: Tensor | None = None,
    value_zero_point: Tensor | None = None,
) -> Tensor:
    """Sound: everything in float32."""
    key = _numbers(key_cache, key_scale, key_zero_point)
    value = _numbers(value_cache, value_scale, value_zero_point)
    allowed = _allowed(query, key, input_pos)
    out = F.scaled_dot_product_attention(
        query.float(), key, value, attn_mask=allowed, enable_gqa=True
    )
    return out.to(query.dtype)


def folded(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    key_zero_point: Tensor | None = None,
    value_zero_point: Tensor | None = None,
) -> Tensor:
    """Sound: scales go into scores and weights, zero points are taken off sums, and weights are
    rounded to the query's dtype with the scale in them, as tensor cores want them."""
    group, dtype = query.size(1) // key_cache.size(1), query.dtype

    def by_slot(x: Tensor | None, otherwise: float) -> Tensor:
        x = torch.tensor(otherwise) if x is None else x.float()
        x = x.view(1, -1, 1, 1) if x.dim() == 1 else x[:, :, None] if x.dim() else x
        return x.repeat_interleave(group, 1) if x.dim() else x

    query = query.float()
    key, value = (x.float().repeat_interleave(group, 1) for x in (key_cache, value_cache))
    zeros = by_slot(key_zero_point, 0.0) * query.sum(-1, keepdim=True)
    score = (query @ key.mT - zeros) * by_slot(key_scale, 1.0) * query.size(-1) ** -0.5
    allowed = _allowed(query, key, input_pos)
    weight = score.masked_fill(~allowed, -torch.inf).softmax(-1) * by_slot(value_scale, 1.0)
    weight = torch.where(allowed, weight, 0).to(dtype).float()
    zeros = (weight * by_slot(value_zero_point, 0.0)).sum(-1, keepdim=True)
    return (weight @ value - zeros).to(dtype)


def converted(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    key_zero_point: Tensor | None = None,
    value_zero_point: Tensor | None = None,
) -> Tensor:
    """Keys and values are converted to the query's dtype; sound where that is declared."""
    key = _numbers(key_cache, key_scale, key_zero_point).to(query.dtype)
    value = _numbers(value_cache, value_scale, value_zero_point).to(query.dtype)
    allowed = _allowed(query, key, input_pos)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, enable_gqa=True)


def converted_undeclared(*arguments: Tensor, **scales: Any) -> Tensor:
    """The same, not declared."""
    return converted(*arguments, **scales)


def swapped(*arguments: Tensor, **scales: Any) -> Tensor:
    """The scales of keys and values are swapped."""
    if scales:
        key, value = scales["key_scale"], scales["value_scale"]
        scales |= {"key_scale": value, "value_scale": key}
    return dequantised(*arguments, **scales)


def key_scale_twice(*arguments: Tensor, **scales: Any) -> Tensor:
    """The scale of the keys is applied twice."""
    if scales:
        scales["key_scale"] = scales["key_scale"] ** 2
    return dequantised(*arguments, **scales)


def value_scale_lost(*arguments: Tensor, **scales: Any) -> Tensor:
    """The scale of the values is not applied."""
    if scales:
        scales["value_scale"] = torch.ones_like(scales["value_scale"])
    return dequantised(*arguments, **scales)


def zero_point_lost(*arguments: Tensor, **scales: Any) -> Tensor:
    """Zero points are not subtracted."""
    kept = {name: x for name, x in scales.items() if not name.endswith("zero_point")}
    return dequantised(*arguments, **kept)


def token_scale_one_off(*arguments: Tensor, **scales: Any) -> Tensor:
    """Scales of tokens are read a slot too early."""
    moved = {
        n: x.roll(1, -1) if n.endswith("scale") and x.dim() == 3 else x for n, x in scales.items()
    }
    return dequantised(*arguments, **moved)


def first_head_scales_all(*arguments: Tensor, **scales: Any) -> Tensor:
    """All heads are scaled by the first one's scale."""
    first = {n: x[:1].expand_as(x) if x.dim() == 1 else x for n, x in scales.items()}
    return dequantised(*arguments, **first)


for _function in (
    dequantised,
    folded,
    converted,
    converted_undeclared,
    swapped,
    key_scale_twice,
    value_scale_lost,
    zero_point_lost,
    token_scale_one_off,
    first_head_scales_all,
):
    _function.supports = SUPPORTS  # type: ignore[attr-defined]
converted.precision = {"bf16": {"operand": "bf16"}, "fp16": {"operand": "fp16"}}  # type: ignore[attr-defined]
