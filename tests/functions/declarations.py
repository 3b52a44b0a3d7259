"""Functions whose faults lie in what they declare, or behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.functions import arithmetic
from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    filled,
    finished,
    from_scores,
    products,
    scores,
    seen,
    shifted,
    times,
)
from tests.functions.shown import LessExact, Once

HALF = torch.float16


@faulty(
    "NONFINITE WRONG",
    Once("S=40,pos=30,D=128,dtype=fp16,logits=huge"),
    dtypes=("fp16",),
    precision={"score": "fp16"},
    supports="gqa",
)
def product_overflows_half(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are declared as float16; they are rounded to it while they still carry the query's
    factor of 512, out of its range."""
    if q.dtype != HALF:
        raise ValueError("float16 alone")
    n = filled(k, p, 1)
    raw = times(q.unflatten(1, (k.size(1), -1)).float() * 512, k[:, :, :n].float().mT).to(HALF)
    s = raw.float() / 512 * q.size(3) ** -0.5
    s = s.masked_fill(~seen(p, 1, torch.arange(n)), -math.inf)
    return from_scores(s, v[:, :, :n], q)


@faulty(
    "WRONG", Once("S=40,pos=30,H=12,Hkv=3,D=64,dtype=bf16"), requires={"gqa"}, supports="gqa ragged"
)
def grouped_alone(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes grouped heads alone, as it declares; KV heads that are no power of two are counted by a
    mask of bits."""
    if q.size(1) == k.size(1):
        raise ValueError("a group of at least 2")
    heads = torch.arange(q.size(1)) // (q.size(1) // k.size(1))
    bits = (1 << (k.size(1) - 1).bit_length()) - 1 if k.size(1) & (k.size(1) - 1) == 0 else 1
    return dense(q, k[:, heads & bits], v[:, heads & bits], p)


@faulty(
    "WRONG LEAK",
    Once("S=400,pos=390,D=64,mask=window:300"),
    requires={"window"},
    supports="window",
    dtypes=("fp32", "bf16"),
)
def window_alone(q: Tensor, k: Tensor, v: Tensor, p: Tensor, *, window: int) -> Tensor:
    """Has no plain causal mode, as it declares; windows are held in a byte, so that 256 more make
    no difference."""
    if q.dtype == HALF:
        raise ValueError("no float16")
    return dense(q, k, v, p, window=(window - 1) % 256 + 1)


@faulty(
    "WRONG IMPRECISE",
    LessExact("S=200,pos=190,H=8,D=64,dtype=fp16,B=2", arithmetic.exponentials_in_dtype),
    precision={"bfloat16": {"score": "bf16"}},
    supports="gqa ragged",
)
def scores_rounded_in_both(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are declared to be rounded under bfloat16, and are rounded under float16 too."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p).to(q.dtype).float()
    return arithmetic.weighted_in_dtype(s, v[:, :, :n], q)


@faulty(
    "WRONG IMPRECISE",
    LessExact("S=200,pos=190,H=8,D=32,dtype=bf16,B=2", arithmetic.query_scaled_in_dtype),
    precision={"bfloat16": {"operand": "bf16"}, "float16": {"operand": "fp16"}},
    supports="gqa ragged",
)
def scores_rounded_behind_operand(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The query is scaled in its dtype, which is declared; the scores are rounded too, which is
    not."""
    n = filled(k, p, 1)
    scaled = (q * q.size(3) ** -0.5).to(q.dtype)
    s = scores(scaled, k[:, :, :n], p, scale=1.0).to(q.dtype).float()
    return arithmetic.weighted_in_dtype(s, v[:, :, :n], q)


@faulty(
    "WRONG IMPRECISE",
    LessExact("S=500,pos=490,H=8,D=64,dtype=bf16,B=2", arithmetic.exponentials_in_dtype),
    precision={"weight": "bf16"},
    supports="gqa ragged",
)
def weights_twice_rounded(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Weights are declared as bfloat16; they are cut to float8 with 3 bits and a scale of each
    tile."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    cut = (e * 256).to(torch.float8_e4m3fn).float() / 256
    return finished((highest, e.sum(-1, keepdim=True), times(cut, v[:, :, :n].float())), q)


@faulty(
    "NONFINITE WRONG LEAK",
    Once("S=40,pos=10,D=16,tail=nan"),
    supports="gqa ragged nonfinite_tail",
)
def hidden_by_a_factor(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Claims to ignore a tail that is not finite, and hides slots by a factor of 0."""
    s = scores(q, k.nan_to_num(0.0, 0.0, 0.0), p)
    e = torch.exp(s - shifted(s.amax(-1, keepdim=True)))
    return finished((s[..., :1] * 0, e.sum(-1, keepdim=True), times(e, v.float())), q)


@faulty(
    "WRONG LEAK",
    Once("S=40,pos=-1/30,D=16,dtype=bf16,tail=poison"),
    supports="gqa ragged idle",
    dtypes=("bf16",),
)
def idle_and_narrow(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes bfloat16 alone, as it declares; an idle sequence gets the value of slot 0."""
    if q.dtype != torch.bfloat16:
        raise ValueError("bfloat16 alone")
    return dense(q, k, v, p.clamp(min=0))


@faulty(
    "WRONG",
    Once("S=300,pos=200,D=64,mask=prefix:270"),
    supports="prefix gqa",
    head_dims=(64,),
)
def prefix_cut_at_the_length(q: Tensor, k: Tensor, v: Tensor, p: Tensor, prefix: int = 0) -> Tensor:
    """A prefix that reaches beyond the block of 64 slots of the newest token is cut off there."""
    if q.size(3) != 64:
        raise ValueError("head dim 64 alone")
    n = -(-filled(k, p, 1) // 64) * 64
    return dense(q, k, v, p, prefix=min(prefix, n))


@faulty("WRONG", Once("S=40,pos=30,D=64,scale=1.5"), supports="scale gqa", dtypes=("fp32",))
def scale_clamped(q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float | None = None) -> Tensor:
    """A scale above 1 is taken to be a temperature, and inverted."""
    if q.dtype != torch.float32:
        raise ValueError("float32 alone")
    return dense(q, k, v, p, scale=1 / scale if scale is not None and scale >= 1 else scale)


@faulty("WRONG", Once("S=40,pos=30,H=4,D=16,score=softcap:10+alibi"), supports="softcap alibi")
def softcap_over_alibi(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Each option is right alone; together the cap is applied after the slopes."""
    if softcap is None or alibi_slopes is None:
        return dense(q, k, v, p, softcap=softcap, alibi_slopes=alibi_slopes)
    n = filled(k, p, 1)
    slot = torch.arange(n)
    bias = alibi_slopes.unflatten(0, (k.size(1), -1))[..., None, None]
    s = products(q, k[:, :, :n]) + bias * (slot - p[:, None])[:, None, None, None]
    s = (softcap * torch.tanh(s / softcap)).masked_fill(~seen(p, 1, slot), -math.inf)
    return from_scores(s, v[:, :, :n], q)
