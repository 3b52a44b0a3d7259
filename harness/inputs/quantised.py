"""Quantised caches: the codes and scales of a case, and the numbers that they stand for.

The scales are drawn, not computed from the numbers, so that a tail changes none of them: any codes
are a cache. Each has 8 significant bits, so that what a code stands for is exact in float32.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.quantised import Quantised
from harness.inputs.tensors import Inputs

_SEEDS = 2**32
ZEROS = 20
CODES = ("key_codes", "value_codes")


def quantised(inputs: Inputs, kind: Quantised, unused: Tensor) -> Inputs:
    """The inputs with quantised caches: codes ``key_codes`` and ``value_codes``, scales and zero
    points in ``stored``, and the numbers that they stand for, float32, in the buffers.
    Scales of slots ``unused``, bool ``[B, S]``, are junk where each token has its own.

    Half of the seeds have zero points of 0, where there are any.
    """
    case = inputs.case
    generator = torch.Generator().manual_seed((case.seed + 1) % _SEEDS)
    buffers: dict[str, Any] = {}
    stored: dict[str, Tensor] = {}
    for name, buffer in (("key", inputs.key_buffer), ("value", inputs.value_buffer)):
        scale, zero = _drawn(case, kind, generator)
        if kind.grain == "token":
            junk = kind.junk_scale if case.tail_kind.finite else math.nan
            scale = scale.masked_fill(unused[:, None], junk)
        codes = encoded(buffer.float(), scale, zero, kind)
        stored[f"{name}_codes"], stored[f"{name}_scale"] = codes, scale
        if kind.zero_point:
            stored[f"{name}_zero_point"] = zero.to(torch.int32)
        buffers[f"{name}_buffer"] = decoded(codes, scale, zero)
    return dataclasses.replace(inputs, **buffers, stored=stored, tail_draws=None)


def _drawn(case: DecodeCase, kind: Quantised, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shapes = {
        "tensor": (),
        "head": (case.kv_heads,),
        "token": (case.batch, case.kv_heads, case.cache_len),
    }
    shape = shapes[kind.grain]
    scale = _short(kind.step * (0.5 + torch.rand(shape, generator=generator)))
    zero = torch.randint(-ZEROS, ZEROS + 1, shape, generator=generator)
    return scale, zero if kind.zero_point and case.seed % 2 else torch.zeros_like(zero)


def _short(scale: Tensor) -> Tensor:
    return scale.to(torch.bfloat16).float()


def spread(scale: Tensor) -> Tensor:
    """Scales or zero points, broadcast to a cache ``[B, Hkv, S, D]``."""
    return (
        scale.view(1, -1, 1, 1) if scale.dim() == 1 else scale[..., None] if scale.dim() else scale
    )


def encoded(cache: Tensor, scale: Tensor, zero: Tensor, kind: Quantised) -> Tensor:
    """The nearest codes for the numbers of a cache; what is out of range is the outermost code."""
    dtype = getattr(torch, kind.dtype)
    codes = cache / spread(scale)
    if kind.zero_point:
        limits = torch.iinfo(dtype)
        codes = (codes.nan_to_num(limits.max) + spread(zero)).round()
        return codes.clamp(limits.min, limits.max).to(dtype)
    return codes.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)


def decoded(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What codes stand for, float32."""
    return (codes.float() - spread(zero)) * spread(scale)


def slack(inputs: Inputs, name: str) -> Tensor | None:
    """Twice what a zero point stands for, ``[B or 1, Hkv or 1, S or 1]``: so much more than its
    number a code may be, in size, when it is multiplied before the zero point is taken off. None
    where there are no zero points."""
    zero = inputs.stored.get(f"{name}_zero_point")
    if zero is None:
        return None
    size = 2 * zero.double().abs() * inputs.stored[f"{name}_scale"].double()
    return spread(size).squeeze(-1) if size.dim() else size.view(1, 1, 1)
