"""Functions that keep something between calls: with planted faults, and sound ones."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.targets import sound

Function = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
KEPT: dict[Any, Any] = {}
HOARD: list[Any] = []
_COUNT = itertools.count()
_FEW = deque[Any](maxlen=16)


def _once(key: Any, make: Callable[[], Any]) -> Any:
    if key not in KEPT:
        KEPT[key] = make()
    return KEPT[key]


def keyed_by_identity(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converts the keys once for each tensor object, which it keeps: no other has its identity."""
    return sound(q, _once(("identity", id(k)), lambda: (k, k.clone()))[1], v, p)


def keyed_by_address(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converts the values once for each address and shape."""
    return sound(q, k, _once(("address", v.data_ptr(), v.shape), v.clone), p)


def plan_by_shape(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps the positions by the caches' shape."""
    return sound(q, k, v, _once(("shape", k.shape, v.dtype), p.clone))


def first_positions(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Reads the positions' tensor of the first call with a batch size."""
    return sound(q, k, v, _once(("positions", p.shape), lambda: p))


def first_plan(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Splits the slots as the first call had them, and leaves out those beyond."""
    slots = _once("plan", lambda: k.size(2))
    return sound(q, k[:, :, :slots], v[:, :, :slots], p)


def first_address(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Reads the memory of the first caches of a shape, as a captured graph does."""
    return sound(q, *_once(("captured", k.shape, v.shape, k.dtype), lambda: (k, v)), p)


def results_by_position(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Memoises results by the caches' address and the positions."""
    key = ("results", k.data_ptr(), q.shape, *p.tolist(), q.sum().item())
    return _once(key, lambda: sound(q, k, v, p)).clone()


def last_result(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Gives the last result again while query and positions are the same."""
    same = [tuple(q.shape), q.flatten().tolist(), p.tolist(), v.size(3)]
    last = KEPT.get("last")
    if last is None or last[0] != same:
        last = KEPT["last"] = (same, sound(q, k, v, p))
    return last[1].clone()


def counts_positions(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Believes that every call with the same tensor is the next token."""
    at, tensor = KEPT.get("counter", (None, None))
    at = p.clone() if tensor is not p else torch.minimum(at + 1, p.new_tensor(k.size(2) - 1))
    KEPT["counter"] = at, p
    return sound(q, k, v, at)


def uncleared(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Accumulates into a workspace of the first call of a shape, and clears it every second time
    alone."""
    work = _once(("work", q.shape, v.size(3)), lambda: [torch.zeros(*q.shape[:3], v.size(3)), 0])
    work[1] += 1
    if work[1] % 5:
        work[0].zero_()
    return work[0].add_(sound(q, k, v, p)).to(q.dtype, copy=True)


def counter_overflows(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Counts calls in eight bits, and takes the wrap for the first."""
    count = next(_COUNT)
    return sound(q, k, v, p) * (0 if count % 256 == 255 else 1)


def reuses_output(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Hands out one buffer for each shape."""
    out = _once(("out", q.shape, v.size(3), q.dtype), lambda: sound(q, k, v, p))
    return out.copy_(sound(q, k, v, p))


def two_outputs(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Hands out two buffers in turn."""
    key = ("outs", next(_COUNT) % 2, q.shape, v.size(3), q.dtype)
    return _once(key, lambda: sound(q, k, v, p)).copy_(sound(q, k, v, p))


def at_random(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Off in one of three calls, as a race may be."""
    return sound(q, k, v, p) + (os.urandom(1)[0] % 3 == 0)


def leaks_memory(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps half a megabyte of each call."""
    HOARD.append(torch.ones(2**17))
    return sound(q, k, v, p)


def leaks_a_little(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps a kilobyte of each call, which Python knows nothing of."""
    ctypes.memset(_MALLOC(1024), 1, 1024)
    return sound(q, k, v, p)


def leaks_outputs(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps its outputs."""
    HOARD.append(sound(q, k, v, p))
    return HOARD[-1]


def leaks_threads(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Leaves a thread behind that waits for ever."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return sound(q, k, v, p)


def leaks_files(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Leaves a file open."""
    os.open("/dev/null", os.O_RDONLY)
    return sound(q, k, v, p)


def dies(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Segfaults in the third call with the same caches."""
    seen = KEPT[id(k)] = KEPT.get(id(k), 0) + 1
    if seen == 3:
        ctypes.string_at(0)
    return sound(q, k, v, p)


def hangs(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Never returns from the third call with the same caches."""
    seen = KEPT[id(k)] = KEPT.get(id(k), 0) + 1
    while seen == 3:
        time.sleep(0.01)
    return sound(q, k, v, p)


def slow(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes a twentieth of a second, and keeps nothing."""
    time.sleep(0.05)
    return sound(q, k, v, p)


def fills_up(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Raises in the third call of a process."""
    HOARD.append(None)
    if len(HOARD) == 3:
        raise IndexError("the table is full")
    return sound(q, k, v, p)


def by_head_dim(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """One of ``PROCESS`` for each head dim from 1, so that one process can show all of them."""
    return PROCESS[q.size(3) - 1](q, k, v, p)


_MALLOC = ctypes.CDLL(None).malloc
_MALLOC.restype, _MALLOC.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

STALE: tuple[Function, ...] = (
    keyed_by_identity,
    keyed_by_address,
    plan_by_shape,
    first_positions,
    first_plan,
    first_address,
    results_by_position,
    last_result,
    counts_positions,
    uncleared,
    counter_overflows,
)
REUSES: tuple[Function, ...] = (reuses_output, two_outputs)
RETAINS: tuple[Function, ...] = (
    leaks_memory,
    leaks_a_little,
    leaks_outputs,
    leaks_threads,
    leaks_files,
)


def workspace(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Computes in a workspace that it keeps by shape, and hands out a copy."""
    key = ("workspace", q.shape, v.size(3), q.dtype)
    work = _once(key, lambda: torch.empty(*q.shape[:3], v.size(3), dtype=q.dtype))
    return work.copy_(sound(q, k, v, p)).clone()


def growing_workspace(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps one workspace, which is allocated anew where a call needs more."""
    need = k.numel() + v.numel()
    if KEPT.get("buffer") is None or KEPT["buffer"].numel() < need:
        KEPT["buffer"] = torch.empty(2 * need)
    keys = KEPT["buffer"][: k.numel()].view_as(k).copy_(k)
    values = KEPT["buffer"][k.numel() : need].view_as(v).copy_(v)
    return sound(q, keys.to(k.dtype), values.to(v.dtype), p)


def by_version(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converts the keys again whenever the tensor was changed, and keeps the tensor alive, so that
    its address is not another one's."""
    kept = KEPT.get("version")
    if kept is None or kept[0] is not k or kept[1] != k._version:
        kept = KEPT["version"] = (k, k._version, k.clone())
    return sound(q, kept[2], v, p)


@functools.lru_cache(maxsize=64)
def _slots(count: int) -> Tensor:
    return torch.arange(count)


def lazy_table(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Builds a table for each number of slots when it is first needed."""
    used = (_slots(k.size(2)) <= p.max()).view(1, 1, -1, 1)
    return sound(q, torch.where(used, k, 0), torch.where(used, v, 0), p)


def few_outputs(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keeps its latest 16 outputs, to show them."""
    _FEW.append(sound(q, k, v, p))
    return _FEW[-1].clone()


def pool(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Starts a thread in each of the first four calls."""
    if KEPT.setdefault("threads", 0) < 4:
        KEPT["threads"] += 1
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    return sound(q, k, v, p)


def returns_a_view(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Returns a view of memory that holds more than the output."""
    out = sound(q, k, v, p)
    return torch.stack([out, out])[0]


# The whole contract; it keeps nothing.
everything = sound

SOUND: tuple[Function, ...] = (
    workspace,
    growing_workspace,
    by_version,
    lazy_table,
    few_outputs,
    pool,
    returns_a_view,
)
# Those that show in a process alone, and sound ones among them.
PROCESS: tuple[Function, ...] = (
    *RETAINS,
    pool,
    few_outputs,
    dies,
    hangs,
    fills_up,
    slow,
)
