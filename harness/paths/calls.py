"""What each path does: arguments made outside the compiled region, and the function to run.

A function named ``..._refuses`` gives the reason why a path does not take a case, or None.

With ``harness.decoding.block_mask``, the arguments in ``_MASK_ARGUMENTS`` state for the fixed path
which slots a query attends; ``harness.paths.masks`` (other paths), ``harness.case.masks`` (scripts)
and ``harness.case.visible`` (the oracle) state it again. The oracle shares no code with the others,
so that a mistake in one statement shows as a disagreement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    create_block_mask,
    flex_attention,
)

from harness.case import DecodeCase, stated
from harness.case.layouts import identity
from harness.decoding.attention import add_sink, decode_attention
from harness.inputs import Inputs
from harness.paths import forms, masks
from harness.paths.compile import Compiled, Recent, within
from harness.paths.masks import absolute_score_mod, dilation_mod, document_mod


@dataclass(frozen=True)
class Call:
    """A function that may be compiled, and the keyword arguments to call it with."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


def _flex(
    query: Tensor,
    matrix: Tensor | None,
    key: Tensor,
    value: Tensor,
    views: forms.Views,
    length: int | None,
    block_mask: BlockMask | forms.Inside | None,
    score_mod: masks.ScoreMod | None,
    scale: float | None,
    enable_gqa: bool,
    sink_logits: Tensor | None,
    with_logsumexp: bool,
    kernel_options: Any = None,
) -> Tensor | tuple[Tensor, Tensor]:
    query, key, value = views(query, matrix, key, value, length)
    if isinstance(block_mask, forms.Inside):
        block_mask = block_mask.block_mask()
    keywords: dict[str, Any] = dict(
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=enable_gqa,
        kernel_options=kernel_options,
    )
    if with_logsumexp or sink_logits is not None:
        output, aux = flex_attention(query, key, value, return_aux=AuxRequest(lse=True), **keywords)
        if sink_logits is None:
            return output, aux.lse
        return add_sink(output, aux.lse, sink_logits)
    return flex_attention(query, key, value, **keywords)


def _layers(
    query: Tensor, views: forms.Views, scale: float, layers: int, **arguments: Any
) -> list[Tensor | tuple[Tensor, Tensor]]:
    """The same call several times. Factors of two on the query, and on the scale, are exact, and
    without them a compiler might make one call of all."""
    return [
        _flex(query * 2**layer, views=views, scale=scale / 2**layer, **arguments)
        for layer in range(layers)
    ]


def _sdpa(
    query: Tensor,
    matrix: Tensor | None,
    key: Tensor,
    value: Tensor,
    views: forms.Views,
    length: int | None,
    attn_mask: Tensor | None,
    scale: float | None,
    enable_gqa: bool,
) -> Tensor:
    query, key, value = views(query, matrix, key, value, length)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attn_mask,
        scale=scale,
        enable_gqa=enable_gqa,
    )


def _tensors(inputs: Inputs, length: int | None = None) -> dict[str, Any]:
    """Query and caches as arguments, cut to ``length`` slots; the buffers, and the views of them,
    where the case takes views inside the compiled function."""
    case = inputs.case
    query, matrix, query_view = forms.query_argument(inputs)
    key, value, length_inside = inputs.key_buffer, inputs.value_buffer, length
    views = forms.Views(query_view, case.layout_kind.view, case.value_layout_kind.view, case.heads)
    if case.views == "outside":
        key, value, length_inside = inputs.key_cache, inputs.value_cache, None
        views = forms.Views(query_view, identity, identity, case.heads)
        if length is not None:
            key, value = key[:, :, :length], value[:, :, :length]
    return dict(
        query=query,
        matrix=matrix,
        key=key,
        value=value,
        views=views,
        length=length_inside,
        scale=case.scale,
        enable_gqa=case.heads != case.kv_heads,
    )


def filled(case: DecodeCase) -> int:
    """The number of slots that a sliced cache keeps, where all sequences share one position."""
    return max(case.input_pos[0] + case.q_len, case.mask_arguments.get("prefix", 0))


def _with_logsumexp(inputs: Inputs) -> bool:
    # The C++ kernels of FlexAttention cannot return the logsumexp.
    case = inputs.case
    return case.mode == "eager" or not case.cpp or inputs.query.device.type != "cpu"


def flex_call(
    inputs: Inputs, block_mask: BlockMask | forms.Inside | None, length: int | None = None
) -> Call:
    """flex_attention with this block mask, over the first ``length`` slots or all."""
    case = inputs.case
    arguments = dict(
        block_mask=block_mask,
        score_mod=masks.score_mod(inputs),
        sink_logits=inputs.column(),
        with_logsumexp=_with_logsumexp(inputs),
        kernel_options=forms.kernel_options(case),
        **_tensors(inputs, length),
    )
    if case.layers == 1:
        return Call(_flex, arguments)
    return Call(_layers, arguments | dict(scale=case.softmax_scale, layers=case.layers))


def full_cache(inputs: Inputs) -> Call:
    """flex_attention over the whole buffer, the block mask made by the case's recipe and laid out
    in its form."""
    return flex_call(inputs, forms.block_mask(inputs, recipe(inputs)))


# create_block_mask compiled, by the geometry and device for which it is.
_CREATE = Recent[Compiled]()


def recipe(inputs: Inputs) -> BlockMask:
    """The block mask of the case's recipe."""
    return masks.shared(inputs, _recipe)


def _recipe(inputs: Inputs) -> BlockMask:
    case = inputs.case
    if case.recipe == "row":
        return masks.row_block_mask(inputs)
    mod = masks.mask_mod(inputs)
    if case.recipe == "kv-blocks":
        return masks.from_kv_blocks(inputs, mod)
    if case.recipe == "compiled":
        create = _CREATE.of(
            (case.geometry, inputs.query.device),
            lambda: Compiled(create_block_mask, dynamic=case.dynamic, within=within(case)),
        )
        return masks.fresh_block_mask(inputs, mod, case.cache_len, create)
    return masks.fresh_block_mask(inputs, mod, case.cache_len)


def full_cache_refuses(case: DecodeCase) -> str | None:
    """Refuse ``recipe=row`` for all but one causal token at one position, as in gpt-fast, and one
    captured number for several positions."""
    if case.capture == "number" and not case.shared_position:
        return "capture=number is for one position, shared by the batch"
    if case.recipe != "row":
        return None
    if not case.plainly_causal or case.q_len != 1 or not case.shared_position:
        return "recipe=row is for one causal query token at a position shared by the batch"
    return None


def sliced(inputs: Inputs, mod: masks.MaskMod) -> Call:
    """flex_attention over the filled slots with this mask_mod."""
    length = filled(inputs.case)
    return flex_call(inputs, masks.fresh_block_mask(inputs, mod, length), length)


def sliced_refuses(case: DecodeCase) -> str | None:
    """Refuse sequences at different positions, since a slice has one length for all of them."""
    return None if case.shared_position else "a slice needs one position shared by the batch"


def as_reported_refuses(case: DecodeCase) -> str | None:
    """Refuse other masks than causal, and score_mods, which the report's slice does not have."""
    if not case.plainly_causal or case.scores:
        return "the report's slice is plain causal"
    return sliced_refuses(case)


def _attn_mask(inputs: Inputs) -> Tensor:
    """The mask for SDPA: bool ``[B, 1, Q, S]``, or float32 ``[B, Hq, Q, S]`` with score_mods."""
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
    """SDPA over the filled slots, with a mask only where some of them are hidden or biased."""
    case = inputs.case
    length = filled(case)
    plain = case.q_len == 1 and case.plainly_causal and not case.scores
    attn_mask = None if plain else _attn_mask(inputs)[..., :length]
    return Call(_sdpa, dict(attn_mask=attn_mask, **_tensors(inputs, length)))


def sdpa_full(inputs: Inputs) -> Call:
    """SDPA over the whole buffer, with a mask."""
    return Call(_sdpa, dict(attn_mask=_attn_mask(inputs), **_tensors(inputs)))


def sdpa_refuses(case: DecodeCase) -> str | None:
    """Refuse score_mods that are no bias, since SDPA takes them as a mask of biases."""
    others = [kind.name for kind in case.score_kinds if not kind.additive]
    return f"SDPA cannot express {', '.join(others)}" if others else None


def sdpa_sliced_refuses(case: DecodeCase) -> str | None:
    """Refuse what slices refuse, and what SDPA refuses."""
    return sliced_refuses(case) or sdpa_refuses(case)


def _decode(
    query: Tensor,
    matrix: Tensor | None,
    key: Tensor,
    value: Tensor,
    views: forms.Views,
    length: None,
    enable_gqa: bool,
    with_logsumexp: bool,
    **arguments: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    query, key, value = views(query, matrix, key, value, length)
    return decode_attention(query, key, value, return_lse=with_logsumexp, **arguments)


def _documents(inputs: Inputs, document: int) -> dict[str, Any]:
    return {"mask_mod": document_mod(inputs, document)}


def _dilation(inputs: Inputs, window: int, dilation: int) -> dict[str, Any]:
    return {"window": window, "mask_mod": dilation_mod(dilation)}


def _as_they_are(inputs: Inputs, **arguments: int) -> dict[str, Any]:
    return arguments


# The arguments of ``decode_block_mask``, by kind of mask. For documents and dilations, which it
# does not know, it gets a mask_mod from ``harness.paths.masks``.
_MASK_ARGUMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "causal": _as_they_are,
    "window": _as_they_are,
    "sinks": _as_they_are,
    "prefix": _as_they_are,
    "document": _documents,
    "dilated": _dilation,
}


def fixed(inputs: Inputs, *, pack_gqa: bool = False) -> Call:
    """decode_attention, which makes its block mask inside the call.

    Raises:
        UnknownKind: for a kind of mask or score_mod that is not stated for it.
    """
    case = inputs.case
    mask = stated(_MASK_ARGUMENTS, case.mask_kind.name, "the fixed path's masks")
    arguments = dict(
        input_pos=inputs.input_pos,
        score_mod=absolute_score_mod(inputs),
        sink_logits=inputs.column(),
        block_size=case.block_size,
        pack_gqa=pack_gqa,
        with_logsumexp=_with_logsumexp(inputs),
    )
    return Call(_decode, arguments | mask(inputs, **case.mask_arguments) | _tensors(inputs))


def packed_refuses(case: DecodeCase) -> str | None:
    """Refuse cases without GQA, which have no group of heads to pack."""
    return "there is no group to pack" if case.heads == case.kv_heads else None
