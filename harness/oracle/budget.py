"""The rounding budget: an elementwise worst-case bound of the error that rounding can explain.

Per slot ``j`` of a row, with ``w = (|q| . |k_j|) * scale``, ``s`` the score after all score_mods,
``b`` the sum of absolute intermediate values of the score_mods and ``g = |s - max s|``::

    ds           = (D + 3) u_acc w + 2 u_acc (g + |s| + b)
                   + u_score (|s| + b)             where scores are narrower than the accumulator
                   + 2 u_operand w                 where operands are narrower than the inputs
                   + u_operand w                   where an operand dtype is declared (not TF32)
    weight_error = expm1(ds_j + sum_j p_j ds_j) + u_weight + (n + 4) u_acc   [+ u_operand]
    error        = sum_j (p_j weight_error_j + tiny_weight) |v_j| + u_out |o| + tiny_out

Here ``u`` are unit roundoffs, ``p_j`` is the weight, ``v_j`` the value, ``o`` the output and ``n``
the number of slots attended. A path that declares an operand dtype may scale the query in it before
the product, which rounds the query once more; nothing is stored as TF32, so not there.

With quantised caches a path may scale scores and weights instead of keys and values, and take zero
points off sums: four roundings more in each product, ``D + 7`` and ``n + 8``; a zero point counts
with ``2 |zero point| scale`` in the size of its key, and of its value. What a declared operand
dtype rounds are then the numbers that the codes stand for, even if it is the query's own.

A logit in the softmax without a value (``score=sink``) is one slot more in ``n``, in ``max s`` and
in ``sum_j p_j ds_j``. A path may also apply it to the finished output, as sigmoid(logsumexp -
logit): then the output is rounded once more, and the factor carries the error of the logsumexp. So
this is added to the weight_error of all slots::

    column       = u_out + error(logsumexp) + 2 u_acc (|logsumexp| + |logit| + 4)

The bounds of dot products and sums are those of Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd ed., section 3.1 (gamma_n, to first order). The bound with ``sqrt(n)`` for ``n``
(Higham and Mary 2019) is probabilistic and is exceeded where rounding errors all point one way, so
it is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case.precision import UNIT_ROUNDOFF, Precision
from harness.inputs import Inputs
from harness.oracle.golden import Chunk, Golden, chunks

# Tensor cores truncate addends when they align them, so their float32 sums lose one more bit.
TENSOR_CORE_ROUNDOFF = 2.0**-23
# A result of exp may be flushed to zero, or rounded to it: half of float16's smallest subnormal
# number is 2^-25.
_TINY = {"float16": 2.0**-25}
_TINY_OTHERWISE = 2.0**-124
# With quantised caches, the products and sums with scales and zero points in each of the two matrix
# products; and how much larger than its number a code may be, where a weight that has taken up the
# scale is flushed to zero.
SCALINGS = 4
LARGEST_CODE = 2.0**6


@dataclass(frozen=True)
class Budget:
    """Bounds, float64, of the errors that rounding can explain: ``output`` ``[B, Hq, Q, Dv]`` and
    ``logsumexp`` ``[B, Hq, Q]``. They are 0 in rows with nothing to attend, whose result is
    exact."""

    output: Tensor
    logsumexp: Tensor


def largest(dtype: str) -> float:
    """The largest finite number of a dtype in ``UNIT_ROUNDOFF``."""
    # TF32 has the exponents of float32 and the mantissa of float16.
    return (2 - 2.0**-10) * 2.0**127 if dtype == "tf32" else torch.finfo(getattr(torch, dtype)).max


def tiny(dtype: str) -> float:
    """The largest error of a weight or an output of this dtype that is flushed to zero."""
    return _TINY.get(dtype, _TINY_OTHERWISE)


def _logit(inputs: Inputs, like: Tensor) -> Tensor | None:
    """The logit without a value of each row, ``[Hkv, G, Q]``, or None."""
    column = inputs.column()
    return None if column is None else column.double().reshape(*like.shape[:2], 1).expand_as(like)


def _magnitude(chunk: Chunk) -> Tensor:
    """The size of each value, or of what a code contributes before its zero point is taken off."""
    size = chunk.value().abs()
    return size if chunk.more is None else size + chunk.more.unsqueeze(-1)


def budget(  # noqa: PLR0915  # one formula, term by term
    inputs: Inputs,
    golden: Golden,
    precision: Precision | None = None,
    *,
    tensor_cores: bool = False,
    source: Callable[[int], Iterable[Chunk]] | None = None,
) -> Budget:
    """The rounding budget of one case for one declared precision; the module has the formula.

    Args:
        precision: by default, float32 arithmetic on the inputs' dtype.
        tensor_cores: whether sums may run on CUDA tensor cores (one bit less).
        source: gives the slots of a sequence in chunks, heads grouped as in the case, where
            ``golden`` is a prediction of a wrong output; by default the visible slots.
    """
    case, precision = inputs.case, precision or Precision()
    weight_dtype, output_dtype = precision.weight or case.dtype, precision.output or case.dtype
    u_accumulator = UNIT_ROUNDOFF[precision.accumulator]
    if tensor_cores:
        u_accumulator = max(u_accumulator, TENSOR_CORE_ROUNDOFF)
    u_score = UNIT_ROUNDOFF[precision.score]
    u_score = u_score if u_score > u_accumulator else 0.0
    u_operand = UNIT_ROUNDOFF[precision.operand or case.dtype]
    u_scaled = u_operand if precision.stores_operands else 0.0
    # Where caches are quantised, what is converted to the inputs' own dtype is rounded as well.
    stored = case.quantised is not None and precision.operand is not None
    u_operand = u_operand if stored or u_operand > UNIT_ROUNDOFF[case.dtype] else 0.0
    scaling = SCALINGS if case.quantised else 0
    u_weight, u_output = UNIT_ROUNDOFF[weight_dtype], UNIT_ROUNDOFF[output_dtype]
    u_weight = u_weight if precision.weight else max(u_weight, u_operand)

    slots = source or (lambda sequence: chunks(inputs, sequence))
    if source is None and golden.kept is not None:
        slots = golden.kept.__getitem__

    bound = Budget(torch.zeros_like(golden.output), torch.zeros_like(golden.logsumexp))
    for sequence in range(case.batch):
        logsumexp = golden.logsumexp[sequence].unflatten(0, (case.kv_heads, -1))
        empty = logsumexp == -math.inf
        normaliser = logsumexp.masked_fill(empty, 0.0).unsqueeze(-1)
        highest = golden.highest[sequence].unflatten(0, (case.kv_heads, -1)).unsqueeze(-1)
        count, mean_ds, mean_growth = (torch.zeros_like(logsumexp) for _ in range(3))
        sizes = torch.zeros(*logsumexp.shape, 3, case.value_dim, dtype=torch.float64)
        for chunk in slots(sequence):
            attended = chunk.score > -math.inf
            s = chunk.score.masked_fill(~attended, 0.0)
            p = torch.exp(chunk.score - normaliser)
            gap = (highest - s).masked_fill(~attended, 0.0)
            size = s.abs() + chunk.intermediate
            ds = (case.head_dim + 3 + scaling) * u_accumulator * chunk.product
            ds = ds + 2 * u_accumulator * (gap + size)
            ds = ds + u_score * size + (2 * u_operand + u_scaled) * chunk.product
            growth = p * torch.expm1(ds)
            factors = torch.stack([growth, p, attended.double()], dim=-2)
            count += attended.sum(dim=-1)
            mean_ds += (p * ds).sum(dim=-1)
            mean_growth += growth.sum(dim=-1)
            # One product for all, since reading the values takes most of the time.
            sizes += (factors.flatten(1, 3) @ _magnitude(chunk)).view_as(sizes)

        grown, magnitude, flushed = sizes.unbind(-2)
        size = normaliser.squeeze(-1).abs()
        logit = _logit(inputs, logsumexp)
        if logit is not None:
            # A prediction's normaliser may lack the logit, whose weight is 1 at most all the same.
            p = torch.exp((logit - normaliser.squeeze(-1)).clamp(max=0.0))
            gap = (highest.squeeze(-1) - logit).abs().masked_fill(empty, 0.0)
            ds = 2 * u_accumulator * (gap + logit.abs()) + u_score * logit.abs()
            count, mean_ds = count + 1, mean_ds + p * ds
            mean_growth = mean_growth + p * torch.expm1(ds)

        # The sum over j uses expm1(ds_j + m) = exp(m) expm1(ds_j) + expm1(m), m = sum_j p_j ds_j.
        sums = (count + 4 + scaling) * u_accumulator
        total = torch.log1p(mean_growth) + sums + 4 * u_accumulator * (size + 1)
        common = torch.expm1(mean_ds) + u_weight + u_operand + sums
        if logit is not None:
            common = common + u_output + total + 2 * u_accumulator * (size + logit.abs() + 4)
        error = torch.exp(mean_ds).unsqueeze(-1) * grown + common.unsqueeze(-1) * magnitude
        smallest = tiny(weight_dtype) * (LARGEST_CODE if case.quantised else 1)
        error = (error + smallest * flushed).flatten(0, 1)
        error = error + u_output * golden.output[sequence].abs() + tiny(output_dtype)
        bound.output[sequence] = error.masked_fill(empty.flatten(0, 1).unsqueeze(-1), 0.0)

        bound.logsumexp[sequence] = total.masked_fill(empty, 0.0).flatten(0, 1)
    return bound
