"""Functions that lose more bits than they declare, some of them within a worst-case bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.functions.arithmetic import exponentials_in_dtype, weighted_in_dtype
from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    filled,
    finished,
    grouped,
    merged,
    modified,
    partial,
    products,
    scores,
    seen,
    shifted,
    split,
    tiles,
    times,
)
from tests.functions.shown import LessExact, Once

LOST = "WRONG IMPRECISE"
HALF, BRAIN = torch.float16, torch.bfloat16
LONG = "S=600,pos=590,H=8,D=64,B=2,dtype={}"


def _less(dtype: str, case: str = LONG) -> LessExact:
    return LessExact(case.format(dtype), exponentials_in_dtype)


def _less_than_float32(case: str) -> LessExact:
    return LessExact(case, dense)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def values_summed_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """p @ v is summed in the input dtype, 16 slots at a time."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest)).to(q.dtype).float()
    weighted = torch.zeros(*s.shape[:-1], v.size(3), dtype=q.dtype)
    for a, b in tiles(n, 16):
        weighted = (weighted.float() + times(e[..., a:b], v[:, :, a:b].float())).to(q.dtype)
    return finished((highest, e.sum(-1, keepdim=True), weighted.float()), q)


@faulty(LOST, _less("fp16", LONG.replace("D=64", "D=128")), supports="gqa ragged chunk")
def scale_in_bfloat16(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The scale is a constant in bfloat16, exact only for D of 16, 64 and 256."""
    scale = torch.tensor(q.size(3) ** -0.5).to(BRAIN).item()
    return exponentials_in_dtype(q, k, v, p, scale=scale)


@faulty(LOST, _less("fp16"), supports="gqa ragged")
def log2e_in_half(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Exponentials are powers of two, of scores times log2(e) in float16."""
    factor = torch.tensor(math.log2(math.e)).to(HALF).item()
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p) * (factor * math.log(2))
    return weighted_in_dtype(s, v[:, :, :n], q)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def scores_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores leave the first product in the input dtype."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p).to(q.dtype).float()
    return weighted_in_dtype(s, v[:, :, :n], q)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def output_cut_off(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Under bfloat16 the output's lower half is cut off, not rounded."""
    if q.dtype != BRAIN:
        return exponentials_in_dtype(q, k, v, p)
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    weighted = times(e.to(BRAIN).float(), v[:, :, :n].float())
    output = finished((highest, e.sum(-1, keepdim=True), weighted), q.float())
    return (output.contiguous().view(torch.int32) & -65536).view(torch.float32).to(BRAIN)


@faulty(LOST, _less("bf16", LONG.replace("D=64", "D=32")), supports="gqa ragged")
def query_scaled_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The query is scaled first and rounded to its dtype, which nothing declares."""
    scaled = (q * q.size(3) ** -0.5).to(q.dtype)
    return exponentials_in_dtype(scaled, k, v, p, scale=1.0)


@faulty(LOST, _less("fp16"), supports="gqa ragged")
def exp_by_polynomial(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """2^x of the fraction is a polynomial of degree 3 whose error is 1e-4, taken in narrow
    dtypes."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    if q.dtype == torch.float32:
        return weighted_in_dtype(s, v[:, :, :n], q)
    highest = s.amax(-1, keepdim=True)
    x = (s - shifted(highest)) * math.log2(math.e)
    whole = x.floor().clamp(min=-126.0)
    f = (x - whole).clamp(0.0, 1.0)
    e = torch.exp2(whole) * (1 + f * (0.6951 + f * (0.2276 + f * 0.0773)))
    e = e.masked_fill(s == -math.inf, 0.0)
    weighted = times(e.to(q.dtype).float(), v[:, :, :n].float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@faulty(LOST, Once("S=200,pos=190,H=2,D=64"), supports="gqa ragged")
def bfloat16_weights_in_float32(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Weights are rounded to bfloat16 under float32 inputs as well."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    weighted = times(e.to(BRAIN).float(), v[:, :, :n].float())
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@faulty(LOST, _less("bf16", LONG.replace("H=8", "H=12") + ",score=alibi"), supports="gqa alibi")
def alibi_slopes_in_dtype(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """The slopes of ALiBi are converted to bfloat16, where they are no powers of two."""
    if alibi_slopes is not None:
        alibi_slopes = alibi_slopes.to(BRAIN).float()
    return exponentials_in_dtype(q, k, v, p, alibi_slopes=alibi_slopes)


@faulty(LOST, _less_than_float32("S=40,pos=30,H=8,D=64,B=2"), supports="gqa ragged chunk")
def epsilon_in_the_denominator(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """1e-6 is added to the denominator, against a division by zero."""
    n = filled(k, p, q.size(2))
    highest, total, weighted = partial(scores(q, k[:, :, :n], p), v[:, :, :n])
    return finished((highest, total + 1e-6, weighted), q)


@faulty(
    "NONFINITE WRONG IMPRECISE",
    Once("S=200,pos=190,H=8,D=64,logits=low"),
    supports="gqa ragged",
)
def no_maximum_subtracted(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Exponentials are taken of the scores as they are."""
    n = filled(k, p, 1)
    e = torch.exp(scores(q, k[:, :, :n], p))
    total = e.sum(-1, keepdim=True)
    return finished((total, total, times(e, v[:, :, :n].float())), q)


@faulty(LOST, _less("bf16", LONG + ",score=softcap:20"), supports="gqa softcap")
def softcap_in_dtype(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, softcap: float | None = None
) -> Tensor:
    """The tangent of the softcap is computed in the input dtype."""
    n = filled(k, p, 1)
    s = products(q, k[:, :, :n])
    if softcap is not None:
        s = softcap * torch.tanh((s / softcap).to(q.dtype)).float()
    s = s.masked_fill(~seen(p, 1, torch.arange(n)), -math.inf)
    return weighted_in_dtype(s, v[:, :, :n], q)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def splits_merged_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Each split of 64 slots writes its normalised output in the input dtype."""
    parts = []
    for a, b in tiles(filled(k, p, 1), 64):
        s = scores(q, k[:, :, a:b], p, start=a)
        highest, total, _ = partial(s, v[:, :, a:b])
        e = torch.exp(s - shifted(highest)).to(q.dtype).float()
        weighted = times(e, v[:, :, a:b].float())
        rounded = (weighted / total.masked_fill(total == 0, 1.0)).to(q.dtype).float()
        parts.append((highest, total, rounded * total))
    return finished(merged(parts), q)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def logsumexp_of_splits_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The logsumexp of each split of 128 slots, by which they are weighted, is kept in the input
    dtype."""
    parts = []
    for a, b in tiles(filled(k, p, 1), 128):
        highest, total, weighted = partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b])
        logsumexp = (shifted(highest) + total.log()).to(q.dtype).float()
        parts.append(
            (logsumexp, (total > 0).float(), weighted / total.masked_fill(total == 0, 1.0))
        )
    return finished(merged(parts), q)


@faulty(LOST, _less("fp16"), supports="gqa ragged")
def denominator_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The denominator is summed in the input dtype, 32 slots at a time."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    e = torch.exp(s - shifted(highest))
    total = torch.zeros_like(highest).to(q.dtype)
    for a, b in tiles(n, 32):
        total = (total.float() + e[..., a:b].sum(-1, keepdim=True)).to(q.dtype)
    weighted = times(e.to(q.dtype).float(), v[:, :, :n].float())
    return finished((highest, total.float(), weighted), q)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def accumulator_rescaled_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The accumulator is rescaled in the input dtype at each tile of 128 slots, as where it lives
    in a register of half the width."""
    highest = total = weighted = None
    for a, b in tiles(filled(k, p, 1), 128):
        part = partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b])
        if highest is None:
            highest, total, weighted = part
            continue
        highest, total, weighted = merged([(highest, total, weighted), part])
        weighted = weighted.to(q.dtype).float()
    assert highest is not None
    return finished((highest, total, weighted), q)


@faulty(LOST, _less("fp16"), supports="gqa ragged")
def weights_of_the_other_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Under float16 the weights are rounded to bfloat16, since the kernel was written for that."""
    if q.dtype != HALF:
        return exponentials_in_dtype(q, k, v, p)
    return bfloat16_weights_in_float32(q, k, v, p)


@faulty(LOST, Once("S=200,pos=190,H=2,D=64"), supports="gqa ragged")
def tensor_float_32(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Under float32 the first product takes operands of 10 bits, as tensor cores do."""
    n = filled(k, p, 1)
    cut = (t.float().contiguous().view(torch.int32) & ~0x1FFF for t in (q, k[:, :, :n]))
    narrow = [t.view(torch.float32) for t in cut]
    return split(*narrow, v, p, [(0, n)]).to(q.dtype)


@faulty(LOST, _less("bf16"), supports="gqa ragged")
def keys_dequantised_in_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keys go through a product with a factor near 1 in their dtype, and back, as where they are
    dequantised."""
    n = filled(k, p, 1)
    keys = ((k[:, :, :n] * 0.7).to(k.dtype) * (1 / 0.7)).to(k.dtype)
    s = times(grouped(q, k) * q.size(3) ** -0.5, keys.float().mT)
    s = s.masked_fill(~seen(p, 1, torch.arange(n)), -math.inf)
    return weighted_in_dtype(s, v[:, :, :n], q)


@faulty(
    LOST, _less("bf16", "S=1000,pos=990,H=8,D=16,B=4,score=alibi,dtype={}"), supports="gqa alibi"
)
def alibi_distance_in_dtype(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """Distances of ALiBi are numbers of the input dtype: beyond 256 in bfloat16, and 2048 in
    float16, they are rounded."""
    n = filled(k, p, 1)
    slot = torch.arange(n)
    s = products(q, k[:, :, :n])
    if alibi_slopes is not None:
        distance = (p[:, None] - slot).to(q.dtype).float()
        slopes = alibi_slopes.unflatten(0, (k.size(1), -1))[..., None, None]
        s = s - slopes * distance[:, None, None, None]
    s = modified(s, p, slot).masked_fill(~seen(p, 1, slot), -math.inf)
    return weighted_in_dtype(s, v[:, :, :n], q)
