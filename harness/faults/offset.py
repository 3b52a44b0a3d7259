"""Fault models of the query offset and the mask: classes 1 to 6 and 9 to 13."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention, Weights, products, softmax

fault = Register()


def shifted(a: Attention, position: Tensor) -> Attention:
    """A copy in which mask and score_mods take ``position`` for the query's."""
    return a.mask(a.visible(position)).but(distance=position - a.slot)


@fault(
    1,
    "a query at position 0: the mask lacks the query offset",
    "compare q_idx + input_pos[b] >= kv_idx",
    "meta-pytorch/gpt-fast#233; is_causal with L != S: pytorch#103082, #108108, #144858",
)
def no_query_offset(a: Attention) -> Attention | None:
    return a.mask(a.visible(a.token))


@fault(
    2,
    "the mask's offset is one too low: the newest slot is hidden",
    "the query's own slot is input_pos, and it attends it",
    "onnxruntime-genai PR#2354",
)
def offset_one_low(a: Attention) -> Attention | None:
    return a.mask(a.visible(a.position - 1))


@fault(
    2,
    "the mask's offset is one too low, but not below 0: the newest slot is hidden from slot 1 on",
    "the query's own slot is input_pos, and it attends it",
    "onnxruntime-genai PR#2354",
)
def offset_one_low_clamped(a: Attention) -> Attention | None:
    return a.mask(a.visible((a.position - 1).clamp(min=0)))


@fault(
    2,
    "the mask's offset is one too high: the first unused slot is attended",
    "input_pos is the slot of the query's token, not the count of filled slots",
    "vllm#3385",
)
def offset_one_high(a: Attention) -> Attention | None:
    return a.mask(a.visible(a.position + 1))


@fault(
    3,
    "the first sequence's position is used for the whole batch",
    "index the positions by b in mask_mod and score_mod",
    "candle-vllm PR#140",
)
def first_position_for_all(a: Attention) -> Attention | None:
    return shifted(a, a.position[:1].expand_as(a.position)) if a.case.batch > 1 else None


@fault(
    4,
    "the position is stale by one step, in mask and score_mods",
    "read the position after it was advanced, or pass this step's",
    "facts of gpt-fast's recipe; onnxruntime-genai PR#2354",
)
def stale_position(a: Attention) -> Attention | None:
    return shifted(a, a.position - 1)


@fault(
    4,
    "the position is advanced before mask and score_mods read it",
    "advance the position after the call, or pass a copy",
    "onnxruntime-genai PR#2354; vllm#3385",
)
def position_advanced_early(a: Attention) -> Attention | None:
    return shifted(a, a.position + a.case.q_len)


@fault(
    5,
    "score_mods count the query from 0 while the mask has the offset",
    "wrap score_mod with the offset as mask_mod is",
    "meta-pytorch/gpt-fast#233 and the flex_attention docs on offsets",
)
def score_without_offset(a: Attention) -> Attention | None:
    return a.but(distance=(a.token - a.slot).expand_as(a.distance))


@fault(
    6,
    "a chunk's causal mask is aligned to the top left: row i sees slots 0 to i",
    "align it to the bottom right, at the rows' positions",
    "pytorch#144858, onnx PR#8068",
)
def chunk_top_left(a: Attention) -> Attention | None:
    return a.mask(a.visible(a.token)) if a.case.q_len > 1 else None


@fault(
    6,
    "a causal mask is aligned to the end of the buffer instead of the end of the sequence",
    "align it to input_pos, not to cache_len",
    "pytorch#144858",
)
def aligned_to_buffer_end(a: Attention) -> Attention | None:
    return a.mask(a.visible((a.case.cache_len - a.case.q_len + a.token).expand_as(a.position)))


@fault(
    9,
    "left padding is attended: slots before the sequence's own first one",
    "hide the slots left of the sequence's start while decoding as in the prefill",
    "transformers PR#30414, #30670",
)
def left_padding_attended(a: Attention) -> Attention | None:
    packed = "document" in a.case.mask_arguments
    return a.mask(a.slot <= a.position) if packed else None


@fault(
    10,
    "mask_mod is lost: every slot of a listed block is attended",
    "set mask_mod again after slicing a BlockMask",
    "pytorch#163314, PR#164702",
)
def mask_mod_lost(a: Attention) -> Attention | None:
    listed = a.listed(a.allowed.any(2, keepdim=True))
    return a.mask(listed[..., a.block].expand_as(a.allowed))


@fault(
    11,
    "the block table of the first sequence serves the whole batch",
    "create the block mask with B=batch where its mask depends on b",
    "yalis PR#53",
)
def table_of_first_sequence(a: Attention) -> Attention | None:
    if a.case.batch < 2:
        return None
    listed = a.listed(a.allowed.any(2, keepdim=True))
    return a.mask(a.allowed & listed[:1, ..., a.block])


@fault(
    12,
    "the softcap is applied after the mask: hidden slots get the score -cap",
    "mask after softcap, with -inf",
    "gemma-style softcap; transformers PR#41083",
)
def softcap_after_mask(a: Attention) -> Attention | None:
    if "softcap" not in a.case.scores:
        return None
    cap = a.case.scores["softcap"]["softcap"]

    def scores(inner: Attention) -> Tensor:
        return a.scores(inner).masked_fill(~a.allowed, -float(cap))

    return a.mask(torch.ones_like(a.allowed)).but(scores=scores)


@fault(
    12,
    "sinks are missing from the softmax's denominator",
    "normalise over sinks and window together",
    "transformers PR#41083",
)
def sinks_missing_from_denominator(a: Attention) -> Attention | None:
    if "sinks" not in a.case.mask_arguments:
        return None
    sink_only = a.allowed & ~a.visible(a.position, sinks=0)

    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = softmax(inner, s)
        share = 1 - weights.masked_fill(~sink_only, 0.0).sum(-1, keepdim=True)
        return weights / share.masked_fill(share == 0, 1.0), logsumexp

    return a.but(normalise=normalise)


@fault(
    13,
    "there is no mask: the whole buffer enters the softmax",
    "pass a block mask, or slice",
    "what meta-pytorch/gpt-fast#233 fears",
)
def no_mask(a: Attention) -> Attention | None:
    return a.mask(torch.ones_like(a.allowed))


@fault(
    12,
    "the score_mods are missing",
    "pass score_mod in the decode step too",
    "transformers PR#41083",
)
def score_mods_missing(a: Attention) -> Attention | None:
    if all(kind.column for kind in a.case.score_kinds):
        return None
    return a.but(scores=products)


@fault(
    12,
    "the sink's logit is missing from the softmax's denominator",
    "normalise over the slots and the sink's logit together",
    "transformers PR#41083",
)
def sink_logit_missing(a: Attention) -> Attention | None:
    return None if a.column is None else a.but(column=None)
