"""What a decode path does: arguments made outside the compiled region, and the function to run.

Each ``refuses`` function gives the reason why a case is outside a path's contract, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from harness.case import DecodeCase
from harness.decoding.attention import decode_attention
from harness.inputs import Inputs
from harness.inputs.layouts import LAYOUTS, identity
from harness.paths import masks


@dataclass(frozen=True)
class Call:
    """A function that may be compiled, and its arguments."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


def _flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    view: Callable[[Tensor, int], Tensor],
    length: int | None,
    block_mask: BlockMask | None,
    score_mod: masks.ScoreMod | None,
    scale: float | None,
    enable_gqa: bool,
    with_logsumexp: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    key, value = view(key, query.size(0)), view(value, query.size(0))
    if length is not None:
        key, value = key[:, :, :length], value[:, :, :length]
    keywords: dict[str, Any] = dict(
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    if with_logsumexp:
        output, aux = flex_attention(query, key, value, return_aux=AuxRequest(lse=True), **keywords)
        return output, aux.lse
    return flex_attention(query, key, value, **keywords)


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    view: Callable[[Tensor, int], Tensor],
    length: int | None,
    attn_mask: Tensor | None,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    key, value = view(key, query.size(0)), view(value, query.size(0))
    if length is not None:
        key, value = key[:, :, :length], value[:, :, :length]
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attn_mask,
        scale=scale,
        enable_gqa=enable_gqa,
    )


def _tensors(inputs: Inputs, length: int | None = None) -> dict[str, Any]:
    """Query and caches as arguments: buffers and their view where the case takes views inside."""
    case = inputs.case
    common = dict(query=inputs.query, scale=case.scale, enable_gqa=case.heads != case.kv_heads)
    if case.views == "inside":
        caches = dict(key=inputs.key_buffer, value=inputs.value_buffer)
        return dict(**common, **caches, view=LAYOUTS[case.layout].view, length=length)
    key, value = inputs.key_cache, inputs.value_cache
    if length is not None:
        key, value = key[:, :, :length], value[:, :, :length]
    return dict(**common, key=key, value=value, view=identity, length=None)


def filled(case: DecodeCase) -> int:
    """Slots in use where all sequences share one position: what a sliced cache keeps."""
    name, arguments = case.mask_spec
    prefix = arguments[0] if name == "prefix" else 0
    return max(case.input_pos[0] + case.q_len, prefix)


def _with_logsumexp(inputs: Inputs) -> bool:
    # Compiled FlexAttention on CPU cannot return it.
    return inputs.case.mode == "eager" or inputs.query.device.type != "cpu"


def flex_call(inputs: Inputs, block_mask: BlockMask | None, length: int | None = None) -> Call:
    """flex_attention with this block mask, over ``length`` slots or all."""
    arguments = dict(
        block_mask=block_mask,
        score_mod=masks.score_mod(inputs),
        with_logsumexp=_with_logsumexp(inputs),
        **_tensors(inputs, length),
    )
    return Call(_flex, arguments)


def full_cache(inputs: Inputs) -> Call:
    """flex_attention over the whole buffer, by the case's recipe for the block mask."""
    case = inputs.case
    if case.recipe == "row":
        return flex_call(inputs, masks.row_block_mask(inputs))
    mod = masks.mask_mod(inputs)
    if case.recipe == "kv-blocks":
        return flex_call(inputs, masks.from_kv_blocks(inputs, mod))
    return flex_call(inputs, masks.fresh_block_mask(inputs, mod, case.cache_len))


def full_cache_refuses(case: DecodeCase) -> str | None:
    """gpt-fast's row is for one causal token at one position."""
    if case.recipe != "row":
        return None
    if case.mask != "causal" or case.q_len != 1 or not case.shared_position:
        return "recipe=row is for one causal query token at a position shared by the batch"
    return None


def sliced(inputs: Inputs, mod: masks.MaskMod) -> Call:
    """flex_attention over the filled slots with this mask_mod."""
    length = filled(inputs.case)
    return flex_call(inputs, masks.fresh_block_mask(inputs, mod, length), length)


def sliced_refuses(case: DecodeCase) -> str | None:
    """A slice has one length, for all sequences."""
    if not case.shared_position:
        return "a slice needs one position shared by the batch"
    return None if case.recipe == "fresh" else "a slice's block mask is built fresh"


def as_reported_refuses(case: DecodeCase) -> str | None:
    """The report's mask knows causal attention alone."""
    if case.mask != "causal" or case.score != "none":
        return "the report's slice is plain causal"
    return sliced_refuses(case)


def _attn_mask(inputs: Inputs) -> Tensor:
    """Bool ``[B, 1, Q, S]``, or float32 ``[B, Hq, Q, S]`` where there are biases."""
    case, device = inputs.case, inputs.query.device
    shape = (case.batch, case.heads, case.q_len, case.cache_len)
    b, h, q, kv = (
        torch.arange(n, device=device).view([-1 if i == axis else 1 for i in range(4)])
        for axis, n in enumerate(shape)
    )
    allowed = masks.mask_mod(inputs)(b, h, q, kv)
    score_mod = masks.score_mod(inputs)
    if score_mod is None:
        return allowed
    bias = score_mod(torch.zeros(shape, device=device), b, h, q, kv)
    return bias.masked_fill(~allowed, float("-inf"))


def sdpa_sliced(inputs: Inputs) -> Call:
    """SDPA over the filled slots, with a mask only where it needs one."""
    case = inputs.case
    length = filled(case)
    plain = case.q_len == 1 and case.mask == "causal" and case.score == "none"
    attn_mask = None if plain else _attn_mask(inputs)[..., :length]
    return Call(_sdpa, dict(attn_mask=attn_mask, **_tensors(inputs, length)))


def sdpa_full(inputs: Inputs) -> Call:
    """SDPA over the whole buffer with a mask."""
    return Call(_sdpa, dict(attn_mask=_attn_mask(inputs), **_tensors(inputs)))


def sdpa_refuses(case: DecodeCase) -> str | None:
    """What SDPA cannot express."""
    if "softcap" in dict(case.score_specs):
        return "SDPA cannot express softcap"
    return None if case.recipe == "fresh" else "SDPA takes no block mask"


def sdpa_sliced_refuses(case: DecodeCase) -> str | None:
    """What slices and SDPA refuse."""
    return sliced_refuses(case) or sdpa_refuses(case)


def _decode(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    view: Callable[[Tensor, int], Tensor],
    length: None,
    enable_gqa: bool,
    with_logsumexp: bool,
    **arguments: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    key, value = view(key, query.size(0)), view(value, query.size(0))
    return decode_attention(query, key, value, return_lse=with_logsumexp, **arguments)


def fixed(inputs: Inputs, *, pack_gqa: bool = False) -> Call:
    """decode_attention, which makes its block table inside the call."""
    case = inputs.case
    name, numbers = case.mask_spec
    arguments = dict(
        input_pos=inputs.input_pos,
        score_mod=masks.absolute_score_mod(inputs),
        window=numbers[0] if name in ("window", "sinks") else None,
        sinks=numbers[1] if name == "sinks" else 0,
        prefix=numbers[0] if name == "prefix" else 0,
        mask_mod=masks.document_mod(inputs) if name == "document" else None,
        block_size=case.block_size,
        pack_gqa=pack_gqa,
        with_logsumexp=_with_logsumexp(inputs),
    )
    return Call(_decode, arguments | _tensors(inputs))


def fixed_refuses(case: DecodeCase) -> str | None:
    """Its block mask is not for the case to choose."""
    return None if case.recipe == "fresh" else "the fixed path makes its own block table"


def packed_refuses(case: DecodeCase) -> str | None:
    """Packing needs a group."""
    if case.heads == case.kv_heads:
        return "there is no group to pack"
    return fixed_refuses(case)
