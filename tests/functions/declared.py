"""Sound functions that declare what is special about them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.functions import arithmetic
from tests.functions.entry import sound
from tests.functions.parts import (
    dense,
    filled,
    finished,
    partial,
    products,
    scores,
    seen,
    shifted,
    tiles,
    times,
)

BRAIN = torch.bfloat16
COMMON = "gqa ragged chunk"


@sound(supports=COMMON)
def flash_weights(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Exponentials rounded to the input dtype for the second product: needs no declaration."""
    return arithmetic.exponentials_in_dtype(q, k, v, p)


@sound(supports=COMMON)
def normalised_weights(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Normalised weights are rounded to the input dtype: needs no declaration."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    e = torch.exp(s - shifted(s.amax(-1, keepdim=True)))
    total = e.sum(-1, keepdim=True)
    weights = (e / total.masked_fill(total == 0, 1.0)).to(q.dtype).float()
    return times(weights, v[:, :, :n].float()).flatten(1, 2).to(q.dtype)


@sound(supports=COMMON, precision={"score": "bfloat16"})
def scores_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are rounded to bfloat16 in every dtype, as declared."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p).to(BRAIN).float()
    return arithmetic.weighted_in_dtype(s, v[:, :, :n], q)


@sound(
    supports=COMMON,
    precision={"bfloat16": {"score": "bf16"}, "float16": {"score": "fp16"}},
)
def scores_by_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are rounded to the input dtype, as declared for each."""
    return arithmetic.scores_in_dtype(q, k, v, p)


@sound(
    supports=COMMON,
    precision={"bfloat16": {"operand": "bf16"}, "float16": {"operand": "fp16"}},
)
def query_scaled(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The query is scaled and rounded to its dtype before the product, as declared."""
    return arithmetic.query_scaled_in_dtype(q, k, v, p)


@sound(supports=COMMON, precision={"float32": {"operand": "bf16"}})
def bfloat16_inside(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Under float32 query, keys, weights and values are rounded to bfloat16, as declared."""
    if q.dtype != torch.float32:
        return arithmetic.exponentials_in_dtype(q, k, v, p)
    narrow = (t.to(BRAIN) for t in (q, k, v))
    n = filled(k, p, q.size(2))
    query, keys, values = narrow
    s = scores(query, keys[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    weighted = times(e.to(BRAIN).float(), values[:, :, :n].float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@sound(supports="gqa ragged", precision={"weight": "bfloat16"})
def weights_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Weights are bfloat16 in every dtype, as declared."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    weighted = times(e.to(BRAIN).float(), v[:, :, :n].float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@sound(supports="gqa ragged", precision={"output": "bf16"})
def output_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The output passes through bfloat16 in every dtype, as declared."""
    return dense(q, k, v, p).to(BRAIN).to(q.dtype)


@sound(supports="gqa ragged", precision={"bfloat16": {"accumulator": "bf16"}}, dtypes=("bf16",))
def accumulator_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """p @ v is summed in bfloat16, 16 slots at a time, as declared; takes bfloat16 alone."""
    if q.dtype != BRAIN:
        raise ValueError("bfloat16 alone")
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest)).to(BRAIN).float()
    weighted = torch.zeros(*s.shape[:-1], v.size(3), dtype=BRAIN)
    for a, b in tiles(n, max(16, n // 256)):
        weighted = (weighted.float() + times(e[..., a:b], v[:, :, a:b].float())).to(BRAIN)
    return finished((highest, e.sum(-1, keepdim=True), weighted.float()), q)


@sound(requires={"gqa"}, supports="gqa ragged", head_dims=(96, 128), dtypes=("bf16", "fp16"))
def narrow_domain(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes grouped heads of 96 or 128 dims in narrow dtypes alone, as declared."""
    if q.size(1) == k.size(1) or q.size(3) not in (96, 128) or q.dtype == torch.float32:
        raise ValueError("grouped heads of 96 or 128 dims, bfloat16 or float16")
    return arithmetic.exponentials_in_dtype(q, k, v, p)


@sound(requires={"window"}, supports="window gqa ragged")
def window_alone(q: Tensor, k: Tensor, v: Tensor, p: Tensor, *, window: int) -> Tensor:
    """Has no mode without a window, as declared."""
    start = max(0, int(p.min()) - window + 1)
    n = filled(k, p, 1)
    s = scores(q, k[:, :, start:n], p, start=start, window=window)
    return finished(partial(s, v[:, :, start:n]), q)


@sound(supports="window gqa nonfinite_tail")
def finite_left_of_the_window(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """Slots beyond the newest one are never read; those left of the window were written once, and
    are hidden by a weight of 0."""
    n = filled(k, p, 1)
    return dense(q, k[:, :, :n], v[:, :, :n], p, window=window)


@sound(supports="gqa ragged")
def multiples_of_64(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Says that it does not take other head dims than multiples of 64."""
    if q.size(3) % 64:
        raise NotImplementedError("head dims that are multiples of 64")
    return dense(q, k, v, p)


@sound(supports="gqa ragged")
def rounded_maximum(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The maximum that is subtracted is rounded to bfloat16: it cancels out."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True).to(BRAIN).float()
    e = torch.exp(s - shifted(highest))
    return finished((highest, e.sum(-1, keepdim=True), times(e, v[:, :, :n].float())), q)


@sound(supports="gqa ragged", precision={"accumulator": "float64", "score": "float64"})
def wide_as_declared(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """All in float64, as declared."""
    n = filled(k, p, 1)
    s = times(q.double().unflatten(1, (k.size(1), -1)), k[:, :, :n].double().mT)
    hidden = ~seen(p, 1, torch.arange(n))
    weights = torch.softmax((s * q.size(3) ** -0.5).masked_fill(hidden, -math.inf), -1)
    return times(weights, v[:, :, :n].double()).flatten(1, 2).to(q.dtype)


@sound(supports="gqa ragged")
def scaled_after_the_product(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The scale is applied to the finished products, in float32."""
    n = filled(k, p, 1)
    s = products(q, k[:, :, :n], scale=1.0) * q.size(3) ** -0.5
    s = s.masked_fill(~seen(p, 1, torch.arange(n)), -math.inf)
    return arithmetic.weighted_in_dtype(s, v[:, :, :n], q)
