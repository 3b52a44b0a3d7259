"""Settings of the whole process that a decode call must leave as they are, and how to put them
back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MATMUL, _CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
_SUBNORMAL = 2.0**-149


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _flushes_subnormals() -> bool:
    # torch has no function that tells, so this computes with a subnormal number.
    return (torch.full((), _SUBNORMAL, device="cpu", dtype=torch.float32) * 1).item() == 0


# How each setting is read and set. Reading must be cheap, since it happens around every call.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch.get_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_default_device": (torch.get_default_device, torch.set_default_device),
    "torch.is_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.are_deterministic_algorithms_enabled": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch.get_float32_matmul_precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch.backends.cuda.matmul.allow_tf32": _attribute(_MATMUL, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": _attribute(
        _MATMUL, "allow_bf16_reduced_precision_reduction"
    ),
    "torch.backends.cudnn.benchmark": _attribute(_CUDNN, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(_CUDNN, "deterministic"),
    "the flushing of subnormal numbers": (_flushes_subnormals, torch.set_flush_denormal),
    "the state of torch's random numbers": (torch.get_rng_state, torch.set_rng_state),
    "the working directory": (os.getcwd, os.chdir),
    "sys.stdout": _attribute(sys, "stdout"),
    "sys.stderr": _attribute(sys, "stderr"),
}


def _now() -> dict[str, Any]:
    values = {}
    for name, (read, _) in SETTINGS.items():
        try:
            values[name] = read()
        except (RuntimeError, OSError):
            # torch refuses to read a setting that was made partly with its old and partly with its
            # new interface, and the system refuses to name a directory that was deleted.
            values[name] = "unreadable"
    return values


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)


@contextmanager
def kept_settings() -> Iterator[list[str]]:
    """A context that puts every setting back at its end; the list that it gives then names the
    settings that were changed."""
    before = _now()
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, value in _now().items():
            if not _same(before[name], value):
                SETTINGS[name][1](before[name])
                changed.append(f"{name}{_values(before[name], value)}")


def _values(before: Any, now: Any) -> str:
    if isinstance(before, (bool, int, str, tuple, torch.dtype, torch.device)):
        return f" from {before} to {now}"
    return ""
