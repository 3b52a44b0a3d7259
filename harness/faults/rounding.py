"""Fault models of rounding: class 31, and one of 30.

What is rounded of the inputs alone is predicted exactly. Scores are computed before they are
rounded, so that those near the middle of two numbers may be rounded either way: for each, the model
says how far apart the two are. Weights and sums have wide bounds instead, which are declared.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from harness.case.precision import UNIT_ROUNDOFF
from harness.faults.fault import Register
from harness.faults.model import Attention, Weights, products, softmax
from harness.oracle.rounding import number, rounded

fault = Register()

SOURCE = "pytorch#163588"
UNSCALED = 8  # roundings of a score beside those of its dot product


def _rounded(x: Tensor, dtype: str) -> Tensor:
    """Rounded to the nearest number of ``dtype``, in the dtype that it has."""
    return rounded(x.double(), dtype).to(x.dtype)


def _scores_rounded(a: Attention, dtype: str) -> Attention:
    def unsure(inner: Attention) -> Tensor:
        """The distance of the numbers to which a float32 score may be rounded."""
        s, product = a.scores(inner), products(inner)
        size = (inner.query.abs() @ inner.key.abs().mT) * inner.scale
        steps = (inner.case.head_dim + UNSCALED) * (size + s.abs() + (s - product).abs())
        error = UNIT_ROUNDOFF["float32"] * steps
        return (_rounded(s + error, dtype) - _rounded(s - error, dtype)).nan_to_num(0.0, 0.0, 0.0)

    return a.but(scores=lambda inner: _rounded(a.scores(inner), dtype), unsure=unsure)


@fault(31, "scores are rounded to bfloat16 before the softmax", "keep them in float32", SOURCE)
def scores_rounded_to_bfloat16(a: Attention) -> Attention | None:
    return _scores_rounded(a, "bfloat16")


@fault(
    31,
    "scores are rounded to float16 before the softmax",
    "keep them in float32",
    SOURCE,
    dtypes=("float32", "float16"),
)
def scores_rounded_to_float16(a: Attention) -> Attention | None:
    return _scores_rounded(a, "float16")


@fault(
    31,
    "the query is rounded to bfloat16",
    "keep it in its own dtype",
    SOURCE,
    dtypes=("float32", "float16"),
)
def query_rounded_to_bfloat16(a: Attention) -> Attention | None:
    return a.but(query=_rounded(a.query, "bfloat16"))


@fault(
    31,
    "the query is rounded to float16",
    "keep it in its own dtype",
    SOURCE,
    dtypes=("float32",),
)
def query_rounded_to_float16(a: Attention) -> Attention | None:
    return a.but(query=_rounded(a.query, "float16"))


def _operands_rounded(a: Attention, dtype: str) -> Attention:
    def combine(inner: Attention, weights: Tensor) -> Tensor:
        # A prediction leaves this to its bound: kernels round weights normalised or not.
        predicted = weights.dtype == torch.float64
        return a.combine(inner, weights if predicted else _rounded(weights, dtype))

    query, key, value = (_rounded(x, dtype) for x in (a.query, a.key, a.value))
    return a.but(query=query, key=key, value=value, combine=combine)


@fault(
    31,
    "float32 operands of both products are rounded to bfloat16",
    "declare operands in bfloat16, or keep them",
    "torch.set_float32_matmul_precision('medium'); pytorch#163588",
    rounding={"weight": "bfloat16"},
    dtypes=("float32",),
)
def operands_rounded_to_bfloat16(a: Attention) -> Attention | None:
    return _operands_rounded(a, "bfloat16")


@fault(
    31,
    "float32 operands of both products are rounded to TF32",
    "declare operands in TF32, or forbid it",
    "torch.set_float32_matmul_precision('high'); pytorch#163588",
    rounding={"weight": "tf32"},
    dtypes=("float32",),
)
def operands_rounded_to_tf32(a: Attention) -> Attention | None:
    return _operands_rounded(a, "tf32")


@fault(
    31,
    "ALiBi's slopes are rounded to bfloat16",
    "keep them in float32",
    "flash-attention asks for alibi_slopes in float32",
    dtypes=("float32",),
)
def alibi_slopes_rounded(a: Attention) -> Attention | None:
    if "alibi" not in a.case.scores:
        return None
    slopes = a.inputs.parameter("alibi")
    changed = {
        name: _rounded(x, "bfloat16") if x is slopes else x
        for name, x in a.inputs.parameters.items()
    }
    return a.but(inputs=dataclasses.replace(a.inputs, parameters=changed))


@fault(
    30,
    "the scale is rounded to bfloat16",
    "pass it as a float",
    "no public report known",
    dtypes=("float32",),
)
def scale_rounded(a: Attention) -> Attention | None:
    return a.but(scale=number(a.scale, "bfloat16"))


@fault(
    31,
    "the softmax takes powers of 2 of scores times a log2(e) that is rounded to bfloat16",
    "multiply by log2(e) in float32",
    "no public report known",
    dtypes=("float32", "float16"),
)
def log2e_rounded(a: Attention) -> Attention | None:
    factor = number(math.log2(math.e), "bfloat16") * math.log(2)
    column = None if a.column is None else a.column * factor
    return a.but(scores=lambda inner: a.scores(inner) * factor, column=column)


@fault(
    31,
    "sums are accumulated in bfloat16",
    "accumulate in float32",
    SOURCE,
    # The fault is planted with one slot summed after the other; a path that sums in another order
    # ends some roundings away.
    rounding={"weight": "bfloat16", "output": "bfloat16"},
)
def accumulated_in_bfloat16(a: Attention) -> Attention | None:
    if a.column is not None:
        return None  # With a sink, the weights of the slots do not add up to 1.

    def normalise(inner: Attention, s: Tensor) -> Weights:
        weights, logsumexp = softmax(inner, s)
        return weights / weights.amax(-1, keepdim=True).clamp(min=1e-30), logsumexp

    def combine(inner: Attention, weights: Tensor) -> Tensor:
        # A column of ones is added to the values, so that the weights are summed alike.
        value = torch.nn.functional.pad(inner.value.nan_to_num(0.0, 0.0, 0.0), (0, 1), value=1.0)
        out = torch.zeros(*weights.shape[:3], value.size(-1), dtype=weights.dtype)
        for slot in range(weights.size(-1)):
            out = _rounded(out + weights[..., slot, None] * value[:, :, None, slot], "bfloat16")
        total = out[..., -1:]
        return out[..., :-1] / total.masked_fill(total == 0, 1.0)

    return a.but(normalise=normalise, combine=combine)
