"""Golden: attention in float64 over the visible slots, computed in chunks so that memory does not
grow with cache_len.

The oracle reads no slot of the tail and runs on the CPU. It takes the visible slots from
``harness.case.visible`` and states the score_mods itself. They are stated again in
``harness.paths.masks`` (what is judged), ``harness.faults.model`` (the dense model of a decode
call) and ``harness.case.scores`` (text of standalone scripts); these statements share no code, so
that a mistake in one shows as a disagreement with the others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.case import DecodeCase, InvalidCase, stated
from harness.case.visible import attended, visible_slots
from harness.inputs import Inputs
from harness.inputs.quantised import slack

CHUNK_ELEMENTS = 2**21
MIN_CHUNK = 16
SECOND_OPINION_ELEMENTS = 2**26
KEPT_SCORES = 2**22  # of a case with no more scores, the chunks are kept for the budget
MAX_SCORE = 1e4


@dataclass(frozen=True)
class Chunk:
    """What some slots of one sequence contribute, float64, query heads grouped as ``[Hkv, G]``.

    ``score`` ``[Hkv, G, Q, n]`` is taken after all score_mods, -inf where a row may not attend.
    Of the same shape are ``product``, (sum over d of |q_d k_d|) * scale, and ``intermediate``, the
    sum of absolute intermediate values of the score_mods. ``value()`` is ``[Hkv, n, Dv]``, and
    ``more`` ``[Hkv, n]``, or None, how much larger than a value an intermediate may be.
    """

    score: Tensor
    product: Tensor
    intermediate: Tensor
    value: Callable[[], Tensor]
    more: Tensor | None = None


@dataclass(frozen=True)
class Golden:
    """The oracle's result, float64.

    ``output`` ``[B, Hq, Q, Dv]`` is 0 in rows with nothing to attend. ``logsumexp`` (natural base)
    and ``highest``, the largest score, ``[B, Hq, Q]``, are -inf in such rows; in all others a logit
    without a value (``score=sink``) takes part in both. ``kept`` are the chunks of each sequence,
    None where they would take much memory.
    """

    output: Tensor
    logsumexp: Tensor
    highest: Tensor
    kept: tuple[tuple[Chunk, ...], ...] | None = field(default=None, repr=False, compare=False)


def chunks(inputs: Inputs, sequence: int, *, kept: bool = False) -> Iterator[Chunk]:
    """The slots of a sequence that any of its queries attends, a bounded number at a time; ``kept``
    says that all of them will be kept, so that they are put into memory of their own."""
    case = inputs.case
    slots = attended(case, sequence).nonzero().flatten()
    if not slots.numel():
        return
    grouped = (case.heads // case.kv_heads, case.q_len)
    # The rows of a group share its keys and values, so they are multiplied as one matrix.
    query = inputs.query[sequence].double().reshape(case.kv_heads, -1, case.head_dim)
    size = query.abs()
    caches = inputs.key_cache[sequence], inputs.value_cache[sequence]
    position = case.input_pos[sequence] + torch.arange(case.q_len).unsqueeze(1)
    rows = case.heads * case.q_len + case.kv_heads * (case.head_dim + case.value_dim)
    together = max(MIN_CHUNK, CHUNK_ELEMENTS // rows)
    count = slots.numel()
    extra = {name: _of_sequence(slack(inputs, name), sequence) for name in ("key", "value")}
    room = None
    if kept and count > together:
        # Small tensors that are kept would lie scattered, and take what is free between them.
        room = torch.empty(3, case.kv_heads, *grouped, count, dtype=torch.float64)
    for start in range(0, count, together):
        part = slots[start : start + together]
        key, value = (functools.partial(_taken, cache, part) for cache in caches)
        keys = key()
        score = (query @ keys.mT * case.softmax_scale).unflatten(1, grouped)
        product = size @ keys.abs_().mT
        if (more := _at(extra["key"], part)) is not None:
            product += size.sum(-1, keepdim=True) * more.unsqueeze(1)
        product = product.mul_(case.softmax_scale).unflatten(1, grouped)
        score, intermediate = _score_mods(inputs, score, position - part)
        allowed = visible_slots(case, sequence, part)
        score = score.masked_fill(~allowed, -math.inf)
        if room is not None:
            own = room[..., start : start + together]
            for place, tensor in zip(own, (score, product, intermediate), strict=True):
                place.copy_(tensor)
            score, product, intermediate = own
        yield Chunk(score, product, intermediate, value, _at(extra["value"], part))


def _of_sequence(slack: Tensor | None, sequence: int) -> Tensor | None:
    """What ``slack`` ``[B or 1, Hkv or 1, S or 1]`` has of a sequence."""
    return None if slack is None else slack[sequence if slack.size(0) > 1 else 0]


def _at(slack: Tensor | None, slots: Tensor) -> Tensor | None:
    """What ``slack`` ``[Hkv or 1, S or 1]`` has of some slots."""
    return slack if slack is None or slack.size(-1) == 1 else slack[:, slots]


def _taken(cache: Tensor, slots: Tensor) -> Tensor:
    """A copy, float64, of some slots of a cache ``[H, S, D]``."""
    first, last = int(slots[0]), int(slots[-1])
    together = last - first + 1 == slots.numel()
    part = cache[:, first : last + 1] if together else cache[:, slots]
    return part.to(torch.float64, memory_format=torch.contiguous_format, copy=True)


# A score ``[Hkv, G, Q, n]`` after a score_mod, and the score_mod's absolute intermediate value.
_Modified = tuple[Tensor, Tensor | int]


def _softcap(inputs: Inputs, score: Tensor, distance: Tensor, softcap: int) -> _Modified:
    return softcap * torch.tanh(score / softcap), 4 * softcap


def _added(score: Tensor, bias: Tensor) -> _Modified:
    return score + bias, bias.abs()


def _alibi(inputs: Inputs, score: Tensor, distance: Tensor) -> _Modified:
    slope = inputs.parameter("alibi").double().reshape(*score.shape[:2], 1, 1)
    return _added(score, -slope * distance)


def _bias(inputs: Inputs, score: Tensor, distance: Tensor, bias: int) -> _Modified:
    index = distance.clamp(0, bias - 1)
    table = inputs.parameter("bias").double()
    return _added(score, table[:, index].unflatten(0, score.shape[:2]))


def _shift(inputs: Inputs, score: Tensor, distance: Tensor, shift: int) -> _Modified:
    return _added(score, torch.full_like(score, shift))


def _unchanged(inputs: Inputs, score: Tensor, distance: Tensor) -> _Modified:
    return score, 0


# The module's docstring says where the score_mods are stated again, and why. A sink changes no
# score: its logit enters the softmax in ``golden``.
_SCORE_MODS: dict[str, Callable[..., _Modified]] = {
    "softcap": _softcap,
    "alibi": _alibi,
    "bias": _bias,
    "shift": _shift,
    "sink": _unchanged,
}


def _score_mods(inputs: Inputs, score: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """The scores ``[Hkv, G, Q, n]`` after the case's score_mods, and the sum of their absolute
    intermediate values; ``distance`` ``[Q, n]`` is the query's position less the slot."""
    intermediate = score.new_zeros(()).expand(score.shape)
    for name, arguments in inputs.case.scores.items():
        score_mod = stated(_SCORE_MODS, name, "the oracle's score_mods")
        score, size = score_mod(inputs, score, distance, **arguments)
        intermediate = intermediate + size
    return score, intermediate


def golden(inputs: Inputs) -> Golden:
    """Softmax attention in float64, with the running maximum of Milakov and Gimelshein,
    "Online normalizer calculation for softmax" (2018).

    Raises:
        InvalidCase: where no implementation can be judged, since a score reaches ``MAX_SCORE`` or
            the output leaves the range of the case's dtype.
    """
    case = inputs.case
    output = torch.zeros(case.batch, case.heads, case.q_len, case.value_dim, dtype=torch.float64)
    logsumexp = torch.full(output.shape[:3], -math.inf, dtype=torch.float64)
    maximum = logsumexp.clone()
    grouped = (case.kv_heads, case.heads // case.kv_heads, case.q_len)
    column = inputs.column()
    keeps = case.batch * case.heads * case.q_len * case.cache_len <= KEPT_SCORES
    kept: list[tuple[Chunk, ...]] = []
    for sequence in range(case.batch):
        total = torch.zeros(*grouped, case.value_dim, dtype=torch.float64)
        weight = torch.zeros(grouped, dtype=torch.float64)
        highest = torch.full(grouped, -math.inf, dtype=torch.float64)
        own: list[Chunk] = []
        for chunk in chunks(inputs, sequence, kept=keeps):
            if keeps:
                own.append(chunk)
            largest = chunk.score.nan_to_num(neginf=0.0).abs().max().item()
            if not largest < MAX_SCORE:
                raise InvalidCase(f"a score reaches {largest:.3g}; allowed is below {MAX_SCORE:g}")
            new = torch.maximum(highest, chunk.score.amax(dim=-1))
            shift = new.nan_to_num(neginf=0.0)
            p = torch.exp(chunk.score - shift.unsqueeze(-1))
            rescale = torch.exp(highest - shift)
            weight = weight * rescale + p.sum(dim=-1)
            total = total * rescale.unsqueeze(-1)
            total = total + (p.flatten(1, 2) @ chunk.value()).unflatten(1, grouped[1:])
            highest = new
        kept.append(tuple(own))
        if column is not None:
            # A row with nothing to attend stays empty, since it has no weights to normalise.
            empty = highest == -math.inf
            logit = column.double().reshape(*grouped[:2], 1)
            new = torch.maximum(highest, logit).masked_fill(empty, 0.0)
            rescale = torch.exp(highest - new)
            weight = weight * rescale + torch.exp(logit - new).masked_fill(empty, 0.0)
            total = total * rescale.unsqueeze(-1)
            highest = new.masked_fill(empty, -math.inf)
        normaliser = weight.masked_fill(weight == 0, 1.0).unsqueeze(-1)
        output[sequence] = (total / normaliser).flatten(0, 1)
        logsumexp[sequence] = (highest + weight.log()).flatten(0, 1)
        maximum[sequence] = highest.flatten(0, 1)
    if not output.abs().le(torch.finfo(inputs.query.dtype).max).all():
        raise InvalidCase(f"golden leaves the range of {case.dtype}")
    return Golden(output, logsumexp, maximum, tuple(kept) if keeps else None)


def without_second_opinion(case: DecodeCase) -> str | None:
    """Why ``second_opinion`` does not compute the case, or None where it does."""
    others = [kind.name for kind in case.score_kinds if not kind.additive and not kind.column]
    if others:
        return f"SDPA cannot express {case.score}"
    # The keys and values of a head, and the biases of all, as SDPA takes them.
    rows = case.head_dim + case.value_dim + 2 * case.heads * case.q_len
    if case.cache_len * rows > SECOND_OPINION_ELEMENTS:
        return f"{case.cache_len} slots would take float64 SDPA too much memory"
    return None


def additive_bias(inputs: Inputs, sequence: int) -> Tensor:
    """The score_mods as a bias on the scores, float64 ``[Hq, Q, S]``, -inf where a row may not
    attend; only for score_mods that are a bias."""
    case = inputs.case
    position = case.input_pos[sequence] + torch.arange(case.q_len).unsqueeze(1)
    zeros = torch.zeros(case.kv_heads, case.heads // case.kv_heads, case.q_len, case.cache_len)
    bias, _ = _score_mods(inputs, zeros.double(), position - torch.arange(case.cache_len))
    return bias.flatten(0, 1).masked_fill(~visible_slots(case, sequence), -math.inf)


def second_opinion(inputs: Inputs) -> Tensor:
    """A check of golden: ``F.scaled_dot_product_attention`` in float64 over the visible slots, a KV
    head at a time.

    A logit without a value is one slot more, with key and value 0 and the logit as its bias.

    Returns:
        Float64 ``[B, Hq, Q, Dv]``; rows with nothing to attend are 0.

    Raises:
        InvalidCase: for the reason that ``without_second_opinion`` gives.
    """
    case = inputs.case
    if reason := without_second_opinion(case):
        raise InvalidCase(reason)
    output = torch.zeros(case.batch, case.heads, case.q_len, case.value_dim, dtype=torch.float64)
    column, group_size = inputs.column(), case.heads // case.kv_heads
    for sequence in range(case.batch):
        slots = attended(case, sequence).nonzero().flatten()
        if not slots.numel():
            continue
        bias = additive_bias(inputs, sequence)[..., slots]
        if column is not None:
            logit = column.double().view(-1, 1, 1).expand(-1, case.q_len, 1)
            bias = torch.cat([bias, logit], -1)
        for head in range(case.kv_heads):
            caches = inputs.key_cache[sequence], inputs.value_cache[sequence]
            key, value = (_taken(cache[head : head + 1], slots) for cache in caches)
            if column is not None:
                key, value = (F.pad(cache, (0, 0, 0, 1)) for cache in (key, value))
            group = slice(head * group_size, (head + 1) * group_size)
            output[sequence, group] = F.scaled_dot_product_attention(
                inputs.query[sequence, group].double(),
                key,
                value,
                attn_mask=bias[group],
                scale=case.softmax_scale,
                enable_gqa=True,
            )
    return output
