"""Functions as a user might bring them: a sound one, and ones with planted faults."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from harness.case.features import FEATURES
from harness.function.limits import MEMORY, MEMORY_PER_THREAD


def sound(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    input_pos: Tensor,
    *,
    window: int | None = None,
    sinks: int = 0,
    prefix: int = 0,
    dilation: int = 1,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    sink_logits: Tensor | None = None,
    scale: float | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    key_zero_point: Tensor | None = None,
    value_zero_point: Tensor | None = None,
) -> Tensor:
    """The whole contract, dense, in float32."""
    key_cache = _numbers(key_cache, key_scale, key_zero_point)
    value_cache = _numbers(value_cache, value_scale, value_zero_point)
    group = query.size(1) // key_cache.size(1)
    t = input_pos[:, None] + torch.arange(query.size(2), device=query.device)
    distance = t[:, :, None] - torch.arange(key_cache.size(2), device=query.device)
    slot = torch.arange(key_cache.size(2), device=query.device)
    allowed = (distance >= 0) & (distance % dilation == 0)
    if window is not None:
        allowed &= (distance < window) | (slot < sinks)
    allowed = (allowed | (slot < prefix)) & (input_pos >= 0)[:, None, None]
    used = allowed.any(1)[:, None, :, None]
    key, value = (
        torch.where(used, cache, 0).float().repeat_interleave(group, 1)
        for cache in (key_cache, value_cache)
    )
    scores = query.float() @ key.mT * (query.size(3) ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores = scores - alibi_slopes[:, None, None] * distance[:, None]
    scores = scores.masked_fill(~allowed[:, None], -torch.inf)
    if sink_logits is not None:
        logits = sink_logits[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, logits], -1)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)[..., : key.size(2)]
    return (weights @ value).to(query.dtype)


def _numbers(codes: Tensor, scale: Tensor | None, zero_point: Tensor | None) -> Tensor:
    if scale is None:
        return codes
    zeros = torch.zeros_like(scale) if zero_point is None else zero_point
    by_head = (lambda x: x.view(1, -1, 1, 1)) if scale.dim() == 1 else lambda x: x[..., None]
    scale, zeros = (by_head(x) if x.dim() else x for x in (scale, zeros))
    return (codes.float() - zeros) * scale


sound.supports = set(FEATURES)  # type: ignore[attr-defined]


def base(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Sound, and declares nothing."""
    return sound(q, k, v, p)


def off_by_one(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Misses its own token."""
    return sound(q, k, v, (p - 1).clamp(min=0))


def with_epsilon(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Right, and divides by the sum of the weights and a little, as some kernels do."""
    scores = (q.float() @ k.float().mT) * q.size(3) ** -0.5
    future = torch.arange(k.size(2)) > p[:, None, None, None]
    scores = scores.masked_fill(future, -torch.inf)
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (weights @ v.float() / (weights.sum(-1, keepdim=True) + 1e-5)).to(q.dtype)


def window_one_wide(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """SDPA with a window that is one slot too wide."""
    position, slots = p[:, None, None, None], torch.arange(k.size(2))
    visible = slots <= position
    if window is not None:
        visible &= slots >= position - window
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)


window_one_wide.supports = {"ragged", "window"}  # type: ignore[attr-defined]


def strong_from_20(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Half as much again from position 20 on."""
    position = p.view(-1, 1, 1, 1) + torch.arange(q.size(2)).view(1, 1, -1, 1)
    out = base(q, k, v, p)
    return torch.where(position >= 20, 1.5 * out, out)


def crashes_on_two(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Segfaults on a batch whose positions go beyond 2."""
    if len(q) > 1 and p[0] > 2:
        ctypes.string_at(0)
    return sound(q, k, v, p)


def hangs(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Never returns from a cache of more than 3 slots."""
    while k.size(2) > 3:
        time.sleep(0.01)
    return sound(q, k, v, p)


def waits(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Says that it has begun, in which process and of which parent, and waits for long."""
    with open(os.environ["BEGUN"], "w", encoding="ascii") as file:
        file.write(f"{os.getpid()} {os.getppid()}\n")
    time.sleep(600)
    return q


CALLS = itertools.count(1)


def races(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """One element has other bits in one call of 23."""
    output = sound(q, k, v, p)
    if next(CALLS) % 23 == 0:
        output.view(-1)[-1:] *= 1 + 2.0**-7
    return output


def never(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes nothing."""
    raise NotImplementedError("no case at all")


def seldom(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes one sequence in one dtype."""
    if q.dtype is not torch.float32 or len(q) > 1:
        raise NotImplementedError("one sequence of float32")
    return sound(q, k, v, p)


def needs_cuda(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """As a Triton kernel would."""
    if not q.is_cuda:
        raise RuntimeError("expected a CUDA tensor")
    return q


def returns_tuple(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> object:
    """An output and a logsumexp: one tensor was asked for."""
    return sound(q, k, v, p), q


def returns_none(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> None:
    """Forgot to return."""


def wrong_shape(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Without the query axis."""
    return sound(q, k, v, p)[:, :, 0]


def wrong_dtype(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Not query's."""
    return sound(q, k, v, p).double()


def wrong_device(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """On no device at all."""
    return sound(q, k, v, p).to("meta")


def raises(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A bug of the plain kind."""
    raise IndexError("list index out of range")


def three_arguments(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No input_pos."""
    return q


def no_window(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Declares an option that it does not take."""
    return sound(q, k, v, p)


no_window.supports = {"window"}  # type: ignore[attr-defined]


def unknown_feature(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Declares what there is not."""
    return sound(q, k, v, p)


unknown_feature.supports = {"paged"}  # type: ignore[attr-defined]


def unknown_precision(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Declares what there is not."""
    return sound(q, k, v, p)


unknown_precision.precision = {"scores": "bfloat16"}  # type: ignore[attr-defined]


def needs_window(q: Tensor, k: Tensor, v: Tensor, p: Tensor, *, window: int) -> Tensor:
    """Cannot be called without one."""
    return sound(q, k, v, p, window=window)


needs_window.supports = {"window"}  # type: ignore[attr-defined]


def rounds_scores(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Its scores are bfloat16, whatever the inputs are."""
    scores = (q.float() @ k.float().mT * q.size(3) ** -0.5).bfloat16().float()
    future = torch.arange(k.size(2)) > p[:, None, None, None]
    return (torch.softmax(scores.masked_fill(future, -torch.inf), -1) @ v.float()).to(q.dtype)


def forgets_to_declare(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """Takes a window, and says so in an attribute that nobody reads."""
    return sound(q, k, v, p, window=window)


forgets_to_declare.support = {"window"}  # type: ignore[attr-defined]

NOT_A_FUNCTION = 3


def _hoards(cache: Tensor) -> None:
    hoard = []
    while True:
        hoard.append(torch.empty(2**26))


def _mutates(cache: Tensor) -> None:
    cache[0, 0, 0, 0] += 1


def _closes_stdin(cache: Tensor) -> None:
    sys.stdin.close()
    with contextlib.suppress(OSError):
        os.close(0)


def _prints(cache: Tensor) -> None:
    os.write(1, b"{}\n" * 100_000)
    print("noise", flush=True)
    print("noise", file=sys.stderr, flush=True)


def _says_and_aborts(cache: Tensor) -> None:
    for index in range(20):
        print(f"said {index}", file=sys.stderr)
    print("x" * 300, file=sys.stderr, flush=True)
    os.abort()


def _raise(error: BaseException) -> None:
    raise error


def _reserves(size: int) -> Callable[[Tensor], object]:
    return lambda cache: torch.empty(size, dtype=torch.uint8)


# By the number of slots, so that one worker lives through all of them.
FAULTS = {
    101: lambda cache: ctypes.string_at(0),
    102: lambda cache: os._exit(3),
    103: lambda cache: sys.exit(4),
    104: lambda cache: time.sleep(600),
    105: _hoards,
    106: _mutates,
    107: lambda cache: torch.set_num_threads(7),
    108: lambda cache: torch.set_default_dtype(torch.float64),
    109: lambda cache: torch.manual_seed(1),
    110: _prints,
    111: _closes_stdin,
    112: lambda cache: _raise(KeyboardInterrupt()),
    113: lambda cache: torch.empty(2**60, dtype=torch.uint8),
    114: lambda cache: os.abort(),
    115: lambda cache: os.chdir("/"),
    116: lambda cache: signal.raise_signal(signal.SIGALRM),
    117: lambda cache: _raise(RuntimeError(f"{signal.getitimer(signal.ITIMER_REAL)[0]}")),
    118: lambda cache: os._exit(0),
    119: lambda cache: os._exit(75),
    120: lambda cache: sys.exit(0),
    121: _says_and_aborts,
    122: lambda cache: setattr(torch, "log1p", None),
}
LARGE_FAULTS = {
    2**20: _reserves(MEMORY // 2),
    2**20 - 1: _reserves(MEMORY + (os.cpu_count() or 1) * MEMORY_PER_THREAD + 2**30),
    2**20 - 2: lambda cache: time.sleep(600),
}


def by_length(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The fault of this number of slots, then a sound result."""
    (FAULTS | LARGE_FAULTS).get(k.size(2), lambda cache: None)(k)
    return sound(q, k, v, p)
