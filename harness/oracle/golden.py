"""Golden: attention in float64 over the attendable slots, streamed so that memory does not grow
with cache_len.

The oracle reads no slot of the tail and knows no path and no mask_mod. It runs on the CPU
whatever the path runs on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.case import DecodeCase, InvalidCase
from harness.case.visible import visible_slots
from harness.inputs import Inputs

CHUNK_ELEMENTS = 2**21
MIN_CHUNK = 16
MAX_SCORE = 1e4


@dataclass(frozen=True)
class Golden:
    """``output`` float64 ``[B, Hq, Q, Dv]``, 0 in rows with nothing to attend; ``logsumexp``
    (natural base) and ``highest``, the largest score, float64 ``[B, Hq, Q]``, -inf in such rows.
    """

    output: Tensor
    logsumexp: Tensor
    highest: Tensor


@dataclass(frozen=True)
class Chunk:
    """Some slots of one sequence, all float64, query heads grouped as ``[Hkv, G]``.

    ``score`` ``[Hkv, G, Q, n]`` after all score_mods, -inf where a row may not attend;
    ``product`` the same shape, (sum over d of |q_d k_d|) * scale; ``intermediate`` the sum of
    absolute intermediate values of the score_mods; ``value`` ``[Hkv, 1 or G, n, Dv]``.
    """

    score: Tensor
    product: Tensor
    intermediate: Tensor
    value: Tensor


def chunks(inputs: Inputs, sequence: int) -> Iterator[Chunk]:
    """The slots that any query of a sequence attends, in order, a bounded number at a time."""
    case = inputs.case
    allowed = visible_slots(case, sequence)
    slots = allowed.any(dim=0).nonzero().flatten()
    if not slots.numel():
        return
    group = case.heads // case.kv_heads
    query = inputs.query[sequence].double().unflatten(0, (case.kv_heads, group))
    key_cache, value_cache = inputs.key_cache[sequence], inputs.value_cache[sequence]
    position = case.input_pos[sequence] + torch.arange(case.q_len).unsqueeze(1)
    rows = case.heads * case.q_len + case.kv_heads * (case.head_dim + case.value_dim)
    for part in slots.split(max(MIN_CHUNK, CHUNK_ELEMENTS // rows)):
        key = key_cache[:, part].double().unsqueeze(1)
        score = query @ key.mT * case.softmax_scale
        product = query.abs() @ key.abs().mT
        score, intermediate = _score_mods(inputs, score, position - part)
        yield Chunk(
            score=score.masked_fill(~allowed[:, part], -math.inf),
            product=product * case.softmax_scale,
            intermediate=intermediate,
            value=value_cache[:, part].double().unsqueeze(1),
        )


def _score_mods(inputs: Inputs, score: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Scores ``[Hkv, G, Q, n]`` after the score_mods, and their absolute intermediates;
    ``distance`` ``[Q, n]`` is the query's position less the slot."""
    grouped = score.shape[:2]
    intermediate = torch.zeros_like(score)
    for name, arguments in inputs.case.score_specs:
        if name == "softcap":
            cap = arguments[0]
            score = cap * torch.tanh(score / cap)
            intermediate = intermediate + 4 * cap
            continue
        if name == "alibi":
            assert inputs.alibi_slopes is not None
            slope = inputs.alibi_slopes.double().reshape(*grouped, 1, 1)
            bias = -slope * distance
        elif name == "bias":
            assert inputs.bias_table is not None
            index = distance.clamp(0, arguments[0] - 1)
            bias = inputs.bias_table.double()[:, index].unflatten(0, grouped)
        else:
            bias = torch.full_like(score, arguments[0])
        score = score + bias
        intermediate = intermediate + bias.abs()
    return score, intermediate


def golden(inputs: Inputs) -> Golden:
    """Softmax attention in float64, with the running maximum of Milakov and Gimelshein,
    "Online normalizer calculation for softmax" (2018).

    Raises:
        InvalidCase: where the case leaves the range in which implementations can be judged.
    """
    case = inputs.case
    output = torch.zeros(case.batch, case.heads, case.q_len, case.value_dim, dtype=torch.float64)
    logsumexp = torch.full(output.shape[:3], -math.inf, dtype=torch.float64)
    maximum = logsumexp.clone()
    grouped = (case.kv_heads, case.heads // case.kv_heads, case.q_len)
    for sequence in range(case.batch):
        total = torch.zeros(*grouped, case.value_dim, dtype=torch.float64)
        weight = torch.zeros(grouped, dtype=torch.float64)
        highest = torch.full(grouped, -math.inf, dtype=torch.float64)
        for chunk in chunks(inputs, sequence):
            largest = chunk.score.nan_to_num(neginf=0.0).abs().max().item()
            if not largest < MAX_SCORE:
                raise InvalidCase(f"a score reaches {largest:.3g}; allowed is below {MAX_SCORE:g}")
            new = torch.maximum(highest, chunk.score.amax(dim=-1))
            shift = new.nan_to_num(neginf=0.0)
            p = torch.exp(chunk.score - shift.unsqueeze(-1))
            rescale = torch.exp(highest - shift)
            weight = weight * rescale + p.sum(dim=-1)
            total = total * rescale.unsqueeze(-1) + p @ chunk.value
            highest = new
        normaliser = weight.masked_fill(weight == 0, 1.0).unsqueeze(-1)
        output[sequence] = (total / normaliser).flatten(0, 1)
        logsumexp[sequence] = (highest + weight.log()).flatten(0, 1)
        maximum[sequence] = highest.flatten(0, 1)
    if not output.abs().le(torch.finfo(inputs.query.dtype).max).all():
        raise InvalidCase(f"golden leaves the range of {case.dtype}")
    return Golden(output, logsumexp, maximum)


def expressible_by_sdpa(case: DecodeCase) -> bool:
    """Whether scaled_dot_product_attention can compute the case: softcap is not a bias."""
    return "softcap" not in dict(case.score_specs)


def additive_bias(inputs: Inputs, sequence: int) -> Tensor:
    """Float64 ``[Hq, Q, S]``: the score_mods as a bias, -inf where a row may not attend."""
    case = inputs.case
    position = case.input_pos[sequence] + torch.arange(case.q_len).unsqueeze(1)
    zeros = torch.zeros(case.kv_heads, case.heads // case.kv_heads, case.q_len, case.cache_len)
    bias, _ = _score_mods(inputs, zeros.double(), position - torch.arange(case.cache_len))
    return bias.flatten(0, 1).masked_fill(~visible_slots(case, sequence), -math.inf)


def second_opinion(inputs: Inputs) -> Tensor:
    """``F.scaled_dot_product_attention`` in float64 over each sequence's attendable slots.

    Returns float64 ``[B, Hq, Q, Dv]``; rows with nothing to attend are 0.

    Raises:
        InvalidCase: where SDPA cannot express the case's score_mods.
    """
    case = inputs.case
    if not expressible_by_sdpa(case):
        raise InvalidCase("SDPA cannot express softcap")
    output = torch.zeros(case.batch, case.heads, case.q_len, case.value_dim, dtype=torch.float64)
    for sequence in range(case.batch):
        slots = visible_slots(case, sequence).any(dim=0).nonzero().flatten()
        if slots.numel():
            output[sequence] = F.scaled_dot_product_attention(
                inputs.query[sequence].double(),
                inputs.key_cache[sequence][:, slots].double(),
                inputs.value_cache[sequence][:, slots].double(),
                attn_mask=additive_bias(inputs, sequence)[..., slots],
                scale=case.softmax_scale,
                enable_gqa=True,
            )
    return output
