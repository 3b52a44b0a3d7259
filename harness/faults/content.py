"""Fault models of the cache's content and of how it is read: classes 23 to 27, 33 and 35."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.case.layouts import identity
from harness.faults.fault import Register
from harness.faults.model import Attention, Weights, softmax
from harness.inputs import Inputs

fault = Register()


def _newest(a: Attention) -> Tensor:
    """Bool ``[B, 1, S, 1]``: the slots of this call's tokens."""
    first = a.position[:, :, :1]
    return ((a.slot >= first) & (a.slot < first + a.case.q_len)).mT & a.live


@fault(
    23,
    "keys and values are written and read one slot late: the hole at slot 0 is attended",
    "write the token at input_pos to slot input_pos",
    "onnxruntime-genai PR#2354",
)
def one_slot_late(a: Attention) -> Attention | None:
    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = softmax(inner, s)
        # The hole is a slot of zeros, whose score is 0 and whose value adds nothing.
        hole = (-logsumexp).exp().unsqueeze(-1).masked_fill(~a.live, 0.0)
        return weights / (1 + hole), logsumexp

    return a.but(normalise=normalise)


@fault(
    24,
    "one slot of an earlier sequence's leftovers is attended by every row of the call",
    "mask slots after the newest token",
    "aprender PR#2014",
)
def leftover_slot(a: Attention) -> Attention | None:
    return a.mask(a.allowed | (a.slot == a.position[:, :, -1:] + 1))


@fault(
    24,
    "a block's worth of an earlier sequence's leftovers is attended",
    "mask slots after the newest token, or reset the cache",
    "aprender PR#2014",
)
def leftover_block(a: Attention) -> Attention | None:
    newest = a.position[:, :, -1:]
    return a.mask(a.allowed | ((a.slot > newest) & (a.slot <= newest + a.case.block_size[1])))


@fault(
    25,
    "NaN or inf in slots that no query attends comes through: 0 * NaN is NaN",
    "replace masked values by 0 before the product, or keep the cache finite",
    "flash-attention#1745, #1395; Wan2GP PR#1628",
)
def nonfinite_tail_leaks(a: Attention) -> Attention | None:
    if a.key.isfinite().all() and a.value.isfinite().all():
        return None

    def combine(inner: Attention, weights: Tensor) -> Tensor:
        finite = inner.key.isfinite().all(-1) & inner.value.isfinite().all(-1)
        leaks = ~finite.all(-1)[..., None, None]
        return a.combine(inner, weights).masked_fill(leaks, math.nan)

    return a.but(combine=combine)


@fault(
    26,
    "the cache's batch stride is 0: every sequence reads the first one's cache",
    "pass the batch stride",
    "flash-attention#772; vllm flash-attn PR#176",
)
def batch_stride_zero(a: Attention) -> Attention | None:
    if a.case.batch < 2:
        return None
    return a.but(key=a.key[:1].expand_as(a.key), value=a.value[:1].expand_as(a.value))


@fault(
    26,
    "only the first sequence's new keys and values are written",
    "write all sequences of the batch",
    "vllm flash-attn PR#176",
)
def only_first_sequence_written(a: Attention) -> Attention | None:
    if a.case.batch < 2:
        return None
    lost = _newest(a) & (torch.arange(a.case.batch) > 0).view(-1, 1, 1, 1)
    return a.but(key=a.key.masked_fill(lost, 0.0), value=a.value.masked_fill(lost, 0.0))


@fault(
    26,
    "only the first KV head's new keys and values are written",
    "write all heads",
    "flash-attention#772",
)
def only_first_head_written(a: Attention) -> Attention | None:
    group = a.case.heads // a.case.kv_heads
    lost = _newest(a) & (torch.arange(a.case.heads) >= group).view(-1, 1, 1)
    return a.but(key=a.key.masked_fill(lost, 0.0), value=a.value.masked_fill(lost, 0.0))


@fault(
    27,
    "keys and values are swapped",
    "write keys to the key cache",
    "no public report known",
)
def key_value_swapped(a: Attention) -> Attention | None:
    if a.case.head_dim != a.case.value_dim:
        return None
    return a.but(key=a.value, value=a.key)


@fault(
    27,
    "the newest value is the one before it: values are one step stale",
    "write key and value in the same step",
    "onnxruntime-genai PR#2354",
)
def value_one_step_stale(a: Attention) -> Attention | None:
    return a.but(value=torch.where(_newest(a), a.value.roll(1, 2), a.value))


@fault(
    27,
    "keys are encoded for the position next to theirs (rotary embedding off by one)",
    "encode the key at its own slot",
    "Su et al. 2021, RoFormer; vllm#3385",
)
def rotary_off_by_one(a: Attention) -> Attention | None:
    half = a.case.head_dim // 2
    if not half:
        return None
    angle = 1e4 ** (-torch.arange(half) / half).to(a.key.dtype)
    x, y, rest = a.key.split([half, half, a.case.head_dim - 2 * half], -1)
    turned = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    return a.but(key=torch.cat([*turned, rest], -1))


def _reread(a: Attention, offset_limit: int | None = None) -> Attention | None:
    """A copy whose caches are read from the start of their storage as if contiguous, at offsets
    that wrap at ``offset_limit`` elements."""
    inputs: Inputs = a.inputs
    kv_head = torch.arange(a.case.heads) // (a.case.heads // a.case.kv_heads)
    read = []
    for cache in (inputs.key_cache, inputs.value_cache):
        # What is read is the storage under the cache's view: the whole buffer.
        flat = cache.as_strided(
            (cache.untyped_storage().nbytes() // cache.element_size(),), (1,), 0
        )
        offset = torch.arange(cache.numel())
        offset = offset % min(offset_limit or flat.numel(), flat.numel())
        read.append(flat[offset].view(cache.shape)[:, kv_head].to(a.key.dtype))
    return a.but(key=read[0], value=read[1])


@fault(
    33,
    "the cache's strides and offset are ignored: it is read as if contiguous",
    "pass strides and storage offset, or copy",
    "pytorch PR#187506, #112577, #146377",
)
def strides_ignored(a: Attention) -> Attention | None:
    return _reread(a) if a.case.layout_kind.view is not identity and a.case.batch else None


@fault(
    35,
    "offsets into the cache wrap (planted at 2^16 elements, for 2^31 in the reports)",
    "compute offsets in 64 bits",
    "pytorch#190857, vllm#50427",
)
def offsets_wrap(a: Attention) -> Attention | None:
    if a.case.layout_kind.view is not identity or a.inputs.key_cache.numel() <= 2**16:
        return None
    return _reread(a, 2**16)
