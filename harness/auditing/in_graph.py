"""Attention calls within ``torch.compile``: an operator that the compiler does not look into hands
their tensors over while the compiled code runs.

The operator gets query, key and value as copies in float64, which holds every number of a narrower
dtype: so a query that is computed on the fly still is, and attention is compiled as without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from harness.auditing.recorder import active
from harness.auditing.stated import interface_options, softcapped, stated_mask, stated_scale

# Set while a function is traced that makes a call of torch's own inside; it counts once.
_inside = False
# An operator that changes nothing would be left out of compiled code; this counts its calls.
_count = torch.zeros(1, dtype=torch.int64)


@torch.library.custom_op("flexdecode::recorded", mutates_args=("count",))
def _recorded(
    count: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    sink: Tensor | None,
    dtype: torch.dtype,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    softcap: float,
    operator: str,
    named: str,
) -> None:
    """Hand a call to the active recorder, where it wants those of compiled code."""
    count += 1
    recorder = active()
    if recorder is None or not (recorder.in_graph and recorder.watches):
        return
    query, key, value = (x.to(dtype) for x in (query, key, value))
    visible, score_mod = stated_mask(mask, (*query.shape[:3], key.size(2)), causal=causal)
    recorder.take(
        query=query,
        key=key,
        value=value,
        output=output,
        visible=visible,
        scale=scale,
        again=None,
        score_mod=softcapped(softcap, score_mod) if softcap else score_mod,
        sink=None if sink is None else sink.to(dtype),
        softcap=softcap or None,
        operator=operator if score_mod is None else "",
        named=f"{named}, compiled",
    )


@torch.library.custom_op("flexdecode::passed_over", mutates_args=("count",))
def _passed_over(count: Tensor, named: str, reason: str) -> None:
    """Tell the active recorder of a call that cannot be handed over."""
    count += 1
    recorder = active()
    if recorder is not None and recorder.in_graph and recorder.watches:
        recorder.pass_over(named, reason)


def _record(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    *,
    mask: Tensor | None,
    scale: float | None,
    operator: str,
    named: str,
    causal: bool = False,
    softcap: float = 0.0,
    sink: Tensor | None = None,
) -> None:
    """``softcap`` is 0 for none; ``causal`` hides slots to the top right."""
    wide = [x.double() for x in (query, key, value)]
    sink = None if sink is None else sink.double()
    scale, dtype = stated_scale(scale, query), query.dtype
    stated = (mask, causal, scale, softcap, operator, named)
    _recorded(_count, *wide, output, sink, dtype, *stated)


def _block_mask_tensor(mask: BlockMask | None, query: Tensor, key: Tensor) -> Tensor | None:
    """What a block mask says, bool ``[B, Hq, Q, S]``, by operations that can be compiled."""
    if mask is None:
        return None
    shape = (*query.shape[:3], key.size(2))
    sides = [(-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1)]
    indices = [
        torch.arange(n, device=query.device).view(side)
        for n, side in zip(shape, sides, strict=True)
    ]
    return mask.mask_mod(*indices).expand(shape).contiguous()


def flex(
    original: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    *rest: Any,
    **options: Any,
) -> Any:
    """``flex_attention``, recorded where it has no score_mod and returns nothing but the output."""
    output = original(query, key, value, score_mod, block_mask, scale, *rest, **options)
    if _inside:
        return output
    name = "flex_attention"
    if score_mod is not None or not isinstance(output, Tensor):
        what = "its score_mod" if score_mod is not None else "a call that returns more than output"
        _passed_over(_count, name, f"{what} within compiled code is not seen")
        return output
    mask = _block_mask_tensor(block_mask, query, key)
    _record(query, key, value, output, mask=mask, scale=scale, operator=name, named=name)
    return output


def sdpa(
    original: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """SDPA, recorded."""
    output: Tensor = original(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    if _inside:
        return output
    name = "scaled_dot_product_attention"
    if dropout_p or query.dim() != 4 or key.size(0) != query.size(0):
        what = "dropout is random" if dropout_p else "its shape within compiled code is not seen"
        _passed_over(_count, name, what)
    else:
        facts: dict[str, Any] = dict(mask=attn_mask, scale=scale, operator="sdpa", named=name)
        _record(query, key, value, output, causal=is_causal, **facts)
    return output


def interface(
    function: Callable[..., Any],
    operator: str,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **options: Any,
) -> Any:
    """An attention function of transformers, recorded."""
    global _inside  # noqa: PLW0603  # While it is traced; a compiler follows no other switch.
    _inside = True
    output, *rest = function(module, query, key, value, attention_mask, **options)
    _inside = False
    facts, mask = interface_options(module, query, attention_mask, options), attention_mask
    if isinstance(mask, BlockMask):
        mask = _block_mask_tensor(mask, query, key)
    output_first = output.transpose(1, 2)
    named = operator or "an attention function of transformers"
    _record(query, key, value, output_first, mask=mask, operator=operator, named=named, **facts)
    return (output, *rest)
