"""Functions that launch Triton kernels: a sound one, and ones that do what no kernel may do."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _decode(q, k, v, pos, out, scale, slots, D: tl.constexpr, heads, group, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    b, h = pid // heads, pid % heads
    d = tl.arange(0, D)
    query = tl.load(q + pid * D + d).to(tl.float32)
    last = tl.load(pos + b)
    base = (b * (heads // group) + h // group) * slots
    highest, total = -float("inf"), 0.0
    sums = tl.zeros([D], dtype=tl.float32)
    for start in range(0, slots, BLOCK):
        j = start + tl.arange(0, BLOCK)
        seen = j <= last
        at = (base + j)[:, None] * D + d[None, :]
        key = tl.load(k + at, mask=seen[:, None], other=0.0).to(tl.float32)
        score = tl.where(seen, tl.sum(key * query[None, :], 1) * scale, -float("inf"))
        new = tl.maximum(highest, tl.max(score, 0))
        p, factor = tl.exp(score - new), tl.exp(highest - new)
        value = tl.load(v + at, mask=seen[:, None], other=0.0).to(tl.float32)
        sums = sums * factor + tl.sum(p[:, None] * value, 0)
        total = total * factor + tl.sum(p, 0)
        highest = new
    tl.store(out + pid * D + d, sums / total)


@triton.jit
def _dot(
    q, k, v, pos, out, scale, slots, D: tl.constexpr, S: tl.constexpr, h, DOUBLE: tl.constexpr
):
    pid = tl.program_id(0)
    d, j, r = tl.arange(0, D), tl.arange(0, S), tl.arange(0, 16)
    query = tl.load(q + pid * D + d)
    rows = tl.where((r == 0)[:, None], query[None, :], tl.zeros([16, D], query.dtype))
    inside = j < slots
    at = (pid * slots + j)[:, None] * D + d[None, :]
    key = tl.load(k + at, mask=inside[:, None], other=0.0)
    value = tl.load(v + at, mask=inside[:, None], other=0.0)
    if DOUBLE:
        key, scale = key + key, scale * 0.5
    score = tl.dot(rows, tl.trans(key)) * scale
    seen = (j <= tl.load(pos + pid // h)) & inside
    score = tl.where(seen[None, :], score, -float("inf"))
    p = tl.exp(score - tl.max(score, 1)[:, None])
    result = tl.dot(p.to(value.dtype), value) / tl.sum(p, 1)[:, None]
    result = tl.sum(tl.where((r == 0)[:, None], result, 0.0), 0)
    tl.store(out + pid * D + d, result.to(query.dtype))


@triton.jit
def _copy_next(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i + 1, mask=i < n), mask=i < n)


@triton.jit
def _copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def _copy_times(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * (1 + tl.program_id(0)), mask=i < n)


@triton.jit
def _add(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    before = tl.load(out + i, mask=i < n)
    tl.store(out + i, tl.load(x + i, mask=i < n) + before, mask=i < n)


@triton.jit
def _copy_wrapped(x, out, n, step, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    # A multiple of 2**32 beyond each element, which 32 bits do not hold.
    tl.store(out + i, tl.load(x + i + i * step * 4, mask=i < n), mask=i < n)


@triton.jit
def _copy_row(x, out, n, width, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < width, other=0.0), mask=i < n)


@triton.jit
def _count(counts, FIRST_SETS: tl.constexpr, LAST_SETS: tl.constexpr):
    if FIRST_SETS and tl.program_id(0) == 0:
        tl.store(counts, 0)
    before = tl.atomic_add(counts, 1)
    if LAST_SETS and before == tl.num_programs(0) - 1:
        tl.store(counts, 0)


@triton.jit
def _add_in_turn(x, out, lock, n, LOCKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    if LOCKED:
        while tl.atomic_cas(lock, 0, 1) == 1:
            pass
    before = tl.load(out + i, mask=i < n)
    tl.store(out + i, tl.load(x + i, mask=i < n) + before, mask=i < n)
    if LOCKED:
        tl.atomic_xchg(lock, 0)


@triton.jit
def _scale_if_second(x, flags, out, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    other = tl.load(flags + 1 - pid)
    tl.store(flags + pid, 1)
    tl.store(out + i, tl.load(x + i, mask=i < n) * (1 + other * 1e-7), mask=i < n)


@triton.jit
def _elementwise(a, b, out, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, x + y)
    tl.store(out + N + i, x - y)
    tl.store(out + 2 * N + i, x * y)
    tl.store(out + 3 * N + i, (x / y).to(x.dtype))
    tl.store(out + 4 * N + i, tl.maximum(x, y))
    tl.store(out + 5 * N + i, tl.where(x < y, -x, tl.abs(x)))
    tl.store(out + 6 * N, tl.sum(x, 0))
    tl.store(out + 6 * N + 1, tl.load(a + tl.argmax(x, 0)))
    tl.store(out + 6 * N + 2, tl.load(a + tl.argmin(x, 0)))


@triton.jit
def _scan(a, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.cumsum(tl.load(a + i), 0))


def elementwise(x: Tensor, y: Tensor) -> Tensor:
    """Sum, difference, product, quotient, maximum and a choice of each pair of numbers; then sum,
    maximum and minimum of ``x``."""
    out = torch.empty(6 * len(x) + 3, dtype=x.dtype)
    _elementwise[(1,)](x, y, out, len(x))
    return out


def sound(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Online softmax, one program for each query head."""
    batch, heads, _, dim = q.shape
    out = torch.empty_like(q)
    group = heads // k.size(1)
    _decode[(batch * heads,)](q, k, v, p, out, dim**-0.5, k.size(2), dim, heads, group, 16)
    return out


sound.supports = {"gqa", "ragged"}  # type: ignore[attr-defined]


def _by_dots(q: Tensor, k: Tensor, v: Tensor, p: Tensor, double: bool) -> Tensor:
    out = torch.empty_like(q)
    batch, heads, _, dim = q.shape
    slots = k.size(2)
    block = max(16, triton.next_power_of_2(slots))
    _dot[(batch * heads,)](q, k, v, p, out, dim**-0.5, slots, dim, block, heads, double)
    return out


def dots(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Both products by tl.dot, in the dtype of the tensors."""
    return _by_dots(q, k, v, p, False)


def sums(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The same, with keys added in their own dtype."""
    return _by_dots(q, k, v, p, True)


def scanned(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Sums up its result in vain."""
    out = sound(q, k, v, p)
    _scan[(1,)](out, torch.empty_like(out), 16)
    return out


def out_of_bounds(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Reads one element past the end, and returns something else."""
    out = sound(q, k, v, p)
    _copy_next[(1,)](out, torch.empty_like(out), out.numel(), triton.next_power_of_2(out.numel()))
    return out


def race(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Both programs store all elements, the second one twice as much; returns something else."""
    out = sound(q, k, v, p)
    again = torch.empty_like(out)
    _copy_times[(2,)](out, again, out.numel(), triton.next_power_of_2(out.numel()))
    return out


def twice(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Both programs store all elements; they are the same."""
    out = sound(q, k, v, p)
    again = torch.empty_like(out)
    _copy[(2,)](out, again, out.numel(), triton.next_power_of_2(out.numel()))
    return again


def twice_and_beyond(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The same, and then reads one element past the end."""
    return out_of_bounds(q, k, v, p) if twice(q, k, v, p).numel() else q


def uninitialised(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Adds to what lies in new memory, and returns something else."""
    out = sound(q, k, v, p)
    _add[(1,)](out, torch.empty_like(out), out.numel(), triton.next_power_of_2(out.numel()))
    return out


def zeroed(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Adds to zeros in new memory."""
    out = sound(q, k, v, p)
    again = torch.empty_like(out).zero_()
    _add[(1,)](out, again, out.numel(), triton.next_power_of_2(out.numel()))
    return again


def in_order(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The program that runs second scales its part by less than rounding would."""
    out = sound(q, k, v, p).float()
    again, flags = torch.empty_like(out), torch.zeros(2, dtype=torch.int32)
    _scale_if_second[(2,)](out, flags, again, out.numel(), triton.next_power_of_2(out.numel()))
    return again.to(q.dtype)


def wrapped(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Its offsets are right once they are cut to 32 bits, as a GPU's are."""
    out = sound(q, k, v, p)
    again = torch.empty_like(out)
    _copy_wrapped[(1,)](out, again, out.numel(), 2**30, triton.next_power_of_2(out.numel()))
    return again


def _first_row(q: Tensor, k: Tensor, v: Tensor, p: Tensor, width: int) -> Tensor:
    row = torch.empty_like(q[0, 0, 0])
    _copy_row[(1,)](k, row, k.size(3), width, 4096)
    return sound(q, k.contiguous(), v.contiguous(), p)


def padding(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Loads the first row of the keys with what lies behind it, and does not use it."""
    return _first_row(q, k, v, p, k.stride(2))


def no_padding(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Loads a row of a view, in a tile wider than it, with a mask."""
    return _first_row(q, k, v, p, k.size(3))


def half_written(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Zeros one half of each row of new memory, and adds to the other."""
    out = sound(q, k, v, p).flatten()
    halves = torch.empty(2, 2, out.numel(), dtype=out.dtype)
    halves[:, 0].zero_()
    _add[(1,)](out, halves[0, 1], out.numel(), triton.next_power_of_2(out.numel()))
    return out.view(q.shape)


def in_a_row(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Two launches store to one place, and the second loads what the first has stored."""
    out = sound(q, k, v, p)
    again = torch.empty_like(out)
    _copy[(1,)](torch.zeros_like(out), again, out.numel(), triton.next_power_of_2(out.numel()))
    _add[(1,)](out, again, out.numel(), triton.next_power_of_2(out.numel()))
    return again


def _counted(q: Tensor, k: Tensor, v: Tensor, p: Tensor, first: bool, last: bool) -> Tensor:
    _count[(3,)](torch.zeros(1, dtype=torch.int32), first, last)
    return sound(q, k, v, p)


def counts(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Programs count themselves atomically; the last one sets the count back."""
    return _counted(q, k, v, p, False, True)


def cleared(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A program clears what others may have counted by then."""
    return _counted(q, k, v, p, True, False)


def _in_turn(q: Tensor, k: Tensor, v: Tensor, p: Tensor, locked: bool) -> Tensor:
    out = sound(q, k, v, p)
    sums, lock = torch.zeros_like(out), torch.zeros(1, dtype=torch.int32)
    _add_in_turn[(2,)](out, sums, lock, out.numel(), locked, 4096)
    return out


def locked(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Programs add to one place, each while it holds a lock."""
    return _in_turn(q, k, v, p, True)


def unlocked(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The same without the lock."""
    return _in_turn(q, k, v, p, False)
