"""Fault models of quantised caches: scales and zero points that go to the wrong place."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention
from harness.inputs.quantised import CODES, decoded

fault = Register(quantised=True)


def _read(a: Attention, **changed: Tensor) -> Attention | None:
    """The call with keys and values read by other scales and zero points, named as a function gets
    them; None where none of them changes, or none is there."""
    given = a.inputs.stored
    if a.case.quantised is None or not changed.keys() <= given.keys():
        return None
    read = {**given, **changed}
    kv_head = torch.arange(a.case.heads) // (a.case.heads // a.case.kv_heads)
    numbers = {}
    for name, codes in zip(("key", "value"), CODES, strict=True):
        zero = read.get(f"{name}_zero_point", torch.zeros(()))
        cache = decoded(given[codes], read[f"{name}_scale"], zero.float())
        numbers[name] = cache[:, kv_head].to(a.query.dtype)
    same = torch.equal(numbers["key"], a.key) and torch.equal(numbers["value"], a.value)
    return None if same else a.but(**numbers)


@fault(
    40,
    "the scales of keys and values are swapped",
    "pass key_scale to the keys, value_scale to the values",
    "sgl-project/sglang PR#26852",
)
def scales_swapped(a: Attention) -> Attention | None:
    given = a.inputs.stored
    if a.case.quantised is None:
        return None
    return _read(a, key_scale=given["value_scale"], value_scale=given["key_scale"])


@fault(
    41,
    "the scale of the keys is lost: codes are taken for keys",
    "scale the keys, or the scores",
    "flashinfer#1023, vllm PR#42580",
)
def key_scale_lost(a: Attention) -> Attention | None:
    scale = a.inputs.stored.get("key_scale")
    return None if scale is None else _read(a, key_scale=torch.ones_like(scale))


@fault(
    41,
    "the scale of the values is lost: codes are taken for values",
    "scale the values, or the weights",
    "flashinfer#1023, sgl-project/sglang PR#24198",
)
def value_scale_lost(a: Attention) -> Attention | None:
    scale = a.inputs.stored.get("value_scale")
    return None if scale is None else _read(a, value_scale=torch.ones_like(scale))


@fault(
    41,
    "the scale of the keys is applied twice",
    "scale the keys or the scores, not both",
    "no report found",
)
def key_scale_twice(a: Attention) -> Attention | None:
    scale = a.inputs.stored.get("key_scale")
    return None if scale is None else _read(a, key_scale=scale * scale)


@fault(
    41,
    "the scale of the values is applied twice",
    "scale the values or the weights, not both",
    "no report found",
)
def value_scale_twice(a: Attention) -> Attention | None:
    scale = a.inputs.stored.get("value_scale")
    return None if scale is None else _read(a, value_scale=scale * scale)


@fault(
    42,
    "the zero points are lost",
    "subtract the zero point from each code before it is scaled",
    "InfiniLM PR#553",
)
def zero_point_lost(a: Attention) -> Attention | None:
    names = [n for n in ("key_zero_point", "value_zero_point") if n in a.inputs.stored]
    zeros = {name: torch.zeros_like(a.inputs.stored[name]) for name in names}
    return _read(a, **zeros) if zeros else None


@fault(
    43,
    "each token is scaled by the scale of the token before it",
    "index scales by the slot of the code",
    "vllm#49716, aiter PR#3894",
)
def token_scale_one_off(a: Attention) -> Attention | None:
    if a.case.quantised is None or a.case.quantised.grain != "token":
        return None
    names = ("key_scale", "value_scale")
    return _read(a, **{name: a.inputs.stored[name].roll(1, -1) for name in names})


@fault(
    44,
    "keys and values are rounded to the query's dtype when they are dequantised",
    "scale scores and weights in float32, or declare the dtype as operand",
    "no report found",
    dtypes=("bfloat16", "float16"),
)
def dequantised_to_dtype(a: Attention) -> Attention | None:
    if a.case.quantised is None:
        return None
    dtype = getattr(torch, a.case.dtype)
    key, value = (x.to(dtype).to(x.dtype) for x in (a.key, a.value))
    same = torch.equal(key, a.key) and torch.equal(value, a.value)
    return None if same else a.but(key=key, value=value)
