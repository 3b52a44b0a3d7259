"""Dtypes by name: those of a case's tensors, and short names for dtypes."""

from __future__ import annotations

from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
SHORT_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_LONG = {"fp64": "float64"} | {short: name for name, short in SHORT_DTYPES.items()}


def long_dtype(name: Any) -> Any:
    """The long name of a dtype that is given by its long or short name, or as torch's own object;
    anything else as it is, for the caller to refuse."""
    text = str(name).removeprefix("torch.") if not isinstance(name, str) else name
    long = _LONG.get(text, text)
    return long if isinstance(name, str) or long in _LONG.values() else name
