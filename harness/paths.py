"""The implementations under test, by name.

A path prepares a call outside the compiled region (block masks, slices) and names the function
that runs, eager or compiled. It says what it does not support, which tails it promises to ignore
and how it rounds; the harness holds it to all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from harness import masks
from harness.budget import Precision
from harness.case import NONFINITE_TAILS, DecodeCase
from harness.compile import Compiled, why_not
from harness.decode import decode_attention
from harness.inputs import Inputs
from harness.layouts import LAYOUTS, identity


@dataclass(frozen=True)
class Result:
    """``output`` ``[B, Hq, Q, Dv]``; ``logsumexp`` ``[B, Hq, Q]``, natural base, where given."""

    output: Tensor
    logsumexp: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """A function that may be compiled, and its arguments."""

    function: Callable[..., Any]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Path:
    """One implementation of a decode call.

    ``refuses(case)`` gives the reason why a case is outside its contract, or None. ``ignores`` is
    its tail contract: ``finite`` leftovers, or ``any`` bits. ``flex`` says whether it calls
    flex_attention. An ``exhibit`` is there to be shown wrong and counts for nothing.
    """

    name: str
    doc: str
    prepare: Callable[[Inputs], Call]
    refuses: Callable[[DecodeCase], str | None] = lambda case: None
    ignores: str = "finite"
    precision: Precision = field(default_factory=Precision)
    flex: bool = True
    exhibit: bool = False

    def unsupported(self, case: DecodeCase, device: str) -> str | None:
        """Why this path does not take ``case`` on ``device``, or None."""
        if case.tail in NONFINITE_TAILS and self.ignores == "finite":
            return f"promises to ignore finite tails only, not tail={case.tail}"
        if case.mode != "eager" and (reason := why_not(torch.device(device).type)):
            return reason
        return self.refuses(case)

    def compiled(self, case: DecodeCase, function: Callable[..., Any]) -> Compiled:
        """The compiled ``function`` for the case's geometry; compiled once per process."""
        key = (self.name, case.geometry)
        if key not in _COMPILED:
            mode = None if case.mode == "compiled" else case.mode
            _COMPILED[key] = Compiled(function, dynamic=case.dynamic, mode=mode)
        return _COMPILED[key]

    def graphs(self, case: DecodeCase) -> int:
        """How many graphs this process compiled for the case's geometry."""
        compiled = _COMPILED.get((self.name, case.geometry))
        return compiled.graphs if compiled else 0

    def __call__(self, inputs: Inputs) -> Result:
        call = self.prepare(inputs)
        function = call.function
        if inputs.case.mode != "eager":
            function = self.compiled(inputs.case, function)
        with torch.no_grad():
            result = function(**call.arguments)
        return Result(*result) if isinstance(result, tuple) else Result(result)


_COMPILED: dict[tuple[Any, ...], Compiled] = {}


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


def _flex_call(inputs: Inputs, block_mask: BlockMask | None, length: int | None = None) -> Call:
    arguments = dict(
        block_mask=block_mask,
        score_mod=masks.score_mod(inputs),
        with_logsumexp=_with_logsumexp(inputs),
        **_tensors(inputs, length),
    )
    return Call(_flex, arguments)


def _full_cache(inputs: Inputs) -> Call:
    case = inputs.case
    if case.recipe == "row":
        return _flex_call(inputs, masks.row_block_mask(inputs))
    mod = masks.mask_mod(inputs)
    if case.recipe == "kv-blocks":
        return _flex_call(inputs, masks.from_kv_blocks(inputs, mod))
    return _flex_call(inputs, masks.fresh_block_mask(inputs, mod, case.cache_len))


def _full_cache_refuses(case: DecodeCase) -> str | None:
    if case.recipe != "row":
        return None
    if case.mask != "causal" or case.q_len != 1 or not case.shared_position:
        return "recipe=row is for one causal query token at a position shared by the batch"
    return None


def _sliced(inputs: Inputs, mod: masks.MaskMod) -> Call:
    length = filled(inputs.case)
    return _flex_call(inputs, masks.fresh_block_mask(inputs, mod, length), length)


def _sliced_refuses(case: DecodeCase) -> str | None:
    if not case.shared_position:
        return "a slice needs one position shared by the batch"
    return None if case.recipe == "fresh" else "a slice's block mask is built fresh"


def _as_reported_refuses(case: DecodeCase) -> str | None:
    if case.mask != "causal" or case.score != "none":
        return "the report's slice is plain causal"
    return _sliced_refuses(case)


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


def _sdpa_sliced(inputs: Inputs) -> Call:
    case = inputs.case
    length = filled(case)
    plain = case.q_len == 1 and case.mask == "causal" and case.score == "none"
    attn_mask = None if plain else _attn_mask(inputs)[..., :length]
    return Call(_sdpa, dict(attn_mask=attn_mask, **_tensors(inputs, length)))


def _sdpa_full(inputs: Inputs) -> Call:
    return Call(_sdpa, dict(attn_mask=_attn_mask(inputs), **_tensors(inputs)))


def _sdpa_refuses(case: DecodeCase) -> str | None:
    if "softcap" in dict(case.score_specs):
        return "SDPA cannot express softcap"
    return None if case.recipe == "fresh" else "SDPA takes no block mask"


def _sdpa_sliced_refuses(case: DecodeCase) -> str | None:
    return _sliced_refuses(case) or _sdpa_refuses(case)


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


def _fixed(inputs: Inputs, *, pack_gqa: bool = False) -> Call:
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


def _fixed_refuses(case: DecodeCase) -> str | None:
    return None if case.recipe == "fresh" else "the fixed path makes its own block table"


def _packed_refuses(case: DecodeCase) -> str | None:
    if case.heads == case.kv_heads:
        return "there is no group to pack"
    return _fixed_refuses(case)


PATHS: dict[str, Path] = {
    path.name: path
    for path in (
        Path(
            "full-cache",
            "flex_attention over the whole buffer, mask with the query offset (gpt-fast)",
            _full_cache,
            _full_cache_refuses,
        ),
        Path(
            "fixed",
            "harness.decode.decode_attention: the whole buffer, a block table from the positions",
            _fixed,
            _fixed_refuses,
        ),
        Path(
            "fixed-packed",
            "the same with the GQA group packed into query rows",
            lambda inputs: _fixed(inputs, pack_gqa=True),
            _packed_refuses,
        ),
        Path(
            "sliced-offset",
            "flex_attention over the filled slots, mask with the query offset",
            lambda inputs: _sliced(inputs, masks.mask_mod(inputs)),
            _sliced_refuses,
        ),
        Path(
            "sdpa-sliced",
            "scaled_dot_product_attention over the filled slots",
            _sdpa_sliced,
            _sdpa_sliced_refuses,
            flex=False,
        ),
        Path(
            "sdpa-full",
            "scaled_dot_product_attention over the whole buffer, with a mask",
            _sdpa_full,
            _sdpa_refuses,
            flex=False,
        ),
        Path(
            "sliced-as-reported",
            "flex_attention over the filled slots, mask q >= kv without the offset (gpt-fast#233)",
            lambda inputs: _sliced(inputs, masks.causal_without_offset),
            _as_reported_refuses,
            exhibit=True,
        ),
        Path(
            "full-cache-unmasked",
            "flex_attention over the whole buffer without a mask (what gpt-fast#233 fears)",
            lambda inputs: _flex_call(inputs, None),
            exhibit=True,
        ),
    )
}
