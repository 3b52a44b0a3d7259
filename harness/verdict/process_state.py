"""Settings of the whole process that a decode call must leave as they are, and how to put them
back."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_MATMUL, _CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
_SUBNORMAL = 2.0**-149
_SHOWN = 200
_KINDS = ("cpu", "cuda")
_LIBC = ctypes.CDLL(None)
# Of variables with these names, torch sets some itself when it compiles.
_LIBRARIES = (b"TORCH", b"_TORCH", b"TRITON_", b"CUDA_", b"KMP_", b"CUBLAS_")
# What os.environ holds; decoding each name and value costs a tenth of a verdict.
_VARIABLES: dict[bytes, bytes] = getattr(os.environ, "_data")  # noqa: B009
_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGSEGV", "SIGFPE", "SIGCHLD", "SIGUSR1")
)


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _deterministic() -> tuple[bool, bool]:
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only


def _flushes_subnormals() -> bool:
    # torch has no function that tells, so this computes with a subnormal number.
    return (torch.full((), _SUBNORMAL, device="cpu", dtype=torch.float32) * 1).item() == 0


def _autocast() -> tuple[Any, ...]:
    return tuple(
        value
        for kind in _KINDS
        for value in (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
    )


def _set_autocast(values: tuple[Any, ...]) -> None:
    for index, kind in enumerate(_KINDS):
        torch.set_autocast_enabled(kind, values[2 * index])
        torch.set_autocast_dtype(kind, values[2 * index + 1])


def _sdp() -> tuple[bool, ...]:
    on = torch.backends.cuda
    return (
        on.flash_sdp_enabled(),
        on.mem_efficient_sdp_enabled(),
        on.math_sdp_enabled(),
        on.cudnn_sdp_enabled(),
    )


def _set_sdp(values: tuple[bool, ...]) -> None:
    on = torch.backends.cuda
    for enable, value in zip(
        (
            on.enable_flash_sdp,
            on.enable_mem_efficient_sdp,
            on.enable_math_sdp,
            on.enable_cudnn_sdp,
        ),
        values,
        strict=True,
    ):
        enable(value)


def _numpy_random() -> Any:
    """NumPy's state, in values that compare; None while its random numbers were not imported."""
    if (module := sys.modules.get("numpy.random")) is None:
        return None
    name, key, *rest = module.get_state()
    return (name, key.tobytes(), *rest)


def _set_numpy_random(state: tuple[Any, ...]) -> None:
    numpy = sys.modules["numpy"]
    name, key, *rest = state
    numpy.random.set_state((name, numpy.frombuffer(key, dtype=numpy.uint32), *rest))


def _numpy_errors() -> Any:
    module = sys.modules.get("numpy")
    return None if module is None else module.geterr()


def _cuda(read: str, write: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """What ``torch.cuda`` reads and writes by functions of these names; None until CUDA is used."""

    def now() -> Any:
        return getattr(torch.cuda, read)() if torch.cuda.is_initialized() else None

    def put(value: Any) -> None:
        getattr(torch.cuda, write)(value)

    return now, put


def _environment() -> dict[bytes, bytes]:
    return {k: v for k, v in _VARIABLES.items() if not k.startswith(_LIBRARIES)}


def _set_environment(values: dict[bytes, bytes]) -> None:
    for name in _environment().keys() - values.keys():
        del os.environb[name]
    os.environb.update(values)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in _SIGNALS]


def _set_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


# How each setting is read and set. Reading must be cheap, since it happens around every call.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch.get_num_threads": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_default_dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_default_device": (torch.get_default_device, torch.set_default_device),
    "torch.is_grad_enabled": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.is_autocast_enabled": (_autocast, _set_autocast),
    "torch.are_deterministic_algorithms_enabled": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch.utils.deterministic.fill_uninitialized_memory": _attribute(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "torch.get_float32_matmul_precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch.backends.cuda.matmul.allow_tf32": _attribute(_MATMUL, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": _attribute(
        _MATMUL, "allow_bf16_reduced_precision_reduction"
    ),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": _attribute(
        _MATMUL, "allow_fp16_reduced_precision_reduction"
    ),
    "torch.backends.cuda's SDPA kernels": (_sdp, _set_sdp),
    "torch.backends.cudnn.enabled": _attribute(_CUDNN, "enabled"),
    "torch.backends.cudnn.allow_tf32": _attribute(_CUDNN, "allow_tf32"),
    "torch.backends.cudnn.benchmark": _attribute(_CUDNN, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(_CUDNN, "deterministic"),
    "torch.backends.mkldnn.enabled": _attribute(torch.backends.mkldnn, "enabled"),
    "torch.cuda.current_device": _cuda("current_device", "set_device"),
    "torch.cuda.current_stream": _cuda("current_stream", "set_stream"),
    "the flushing of subnormal numbers": (_flushes_subnormals, torch.set_flush_denormal),
    "the rounding mode of floating point": (_LIBC.fegetround, _LIBC.fesetround),
    "the state of torch's random numbers": (torch.get_rng_state, torch.set_rng_state),
    "the state of CUDA's random numbers": _cuda("get_rng_state", "set_rng_state"),
    "the state of Python's random numbers": (random.getstate, random.setstate),
    "the state of NumPy's random numbers": (_numpy_random, _set_numpy_random),
    "NumPy's handling of floating-point errors": (
        _numpy_errors,
        lambda value: sys.modules["numpy"].seterr(**value),
    ),
    "the filters of warnings": (lambda: list(warnings.filters), _set_filters),
    "the environment": (_environment, _set_environment),
    "the handlers of signals": (_handlers, _set_handlers),
    "the collection of garbage": (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    "sys.getrecursionlimit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the CPUs to run on": (
        # macOS has no such setting.
        lambda: os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        lambda cpus: os.sched_setaffinity(0, cpus),
    ),
    "the working directory": (os.getcwd, os.chdir),
    "sys.stdout": _attribute(sys, "stdout"),
    "sys.stderr": _attribute(sys, "stderr"),
}
# A module may change these when it is imported, which the first call of a function may do.
_BY_IMPORTS = ("the filters of warnings", "the environment", "the handlers of signals")
# torch.compile raises it to this where it is lower, and leaves it there.
_BY_COMPILING = ("sys.getrecursionlimit", 2000)


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
    """A context without gradients that puts every setting back at its end; the list that it gives
    then names the settings that were changed."""
    with torch.no_grad():
        before, imported = _now(), len(sys.modules)
        changed: list[str] = []
        try:
            yield changed
        finally:
            for name, value in _now().items():
                # What was not there before, as the random numbers of a module that was imported
                # only now, has nothing to be compared with.
                if before[name] is None or _same(before[name], value):
                    continue
                SETTINGS[name][1](before[name])
                if (name, value) == _BY_COMPILING:
                    continue
                if name not in _BY_IMPORTS or len(sys.modules) == imported:
                    changed.append(f"{name}{_values(before[name], value)}")


def _values(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
        return f": {', '.join(n.decode() if isinstance(n, bytes) else n for n in names)}"
    if isinstance(before, (bool, int, str, tuple, set, torch.dtype, torch.device)):
        text = f" from {before} to {now}"
        return text if len(text) < _SHOWN else ""
    return ""
