"""What a process keeps after its calls: memory, threads and open files that grow with their
number."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

_PROC = Path("/proc/self")
# So many stretches in a row, each twice as long as the one before, must show the same growth per
# call, within this factor. What is bounded, as a workspace, a pool of threads or a cache that holds
# so many entries, stops growing.
_STRETCHES = 4
_FACTOR = 2.0
_SHORTEST = 8
# Resident memory also grows as the heap is fragmented, by some pages in hundreds of calls. What is
# taken from the system behind malloc's back comes in pages, at least one a call.
_LEAST = {"bytes of resident memory": os.sysconf("SC_PAGE_SIZE")}
# Where so much is kept there is no need to see more of it, since the rest of the run would be ended
# by the limits of the process. No bounded pool of a decode call has so many threads or files.
_ENOUGH = {"threads": 200, "open files": 200}
_ENOUGH_BYTES = 2**28
_COUNTED = {"threads": "task", "open files": "fd"}
_LIBC = ctypes.CDLL(None)


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _allocated() -> int | None:
    """The bytes that malloc has handed out and not got back; None where it does not tell."""
    ask = getattr(_LIBC, "mallinfo2", None)  # since glibc 2.33
    if ask is None:
        return None
    ask.restype = _Mallinfo
    told = ask()
    return int(told.uordblks + told.hblkhd)


def checkpoints(calls: int) -> tuple[int, ...]:
    """The numbers of calls after which to read the gauges: ``calls``, half of it, and so on."""
    found = []
    while calls >= _SHORTEST:
        found.append(calls)
        calls //= 2
    return tuple(reversed(found))


@contextmanager
def few_objects() -> Iterator[None]:
    """A context in which collecting garbage looks at new objects alone, which takes no time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def gauges(device: str) -> dict[str, int]:
    """What the process holds now without what may be freed, by name; see ``held``."""
    gc.collect()
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)
    return held(device)


def held(device: str) -> dict[str, int]:
    """What the process holds now, by name; empty where the system does not tell (no /proc)."""
    if not (_PROC / "statm").exists():
        return {}
    resident = int((_PROC / "statm").read_text(encoding="ascii").split()[1])
    found = {name: len(os.listdir(_PROC / folder)) for name, folder in _COUNTED.items()}
    if (allocated := _allocated()) is not None:
        found["bytes of memory"] = allocated
    found["bytes of resident memory"] = resident * os.sysconf("SC_PAGE_SIZE")
    if torch.device(device).type == "cuda":
        found["bytes of GPU memory"] = torch.cuda.memory_allocated(device)
    return found


def growth(readings: Mapping[int, Mapping[str, int]], *, end: bool) -> str | None:
    """What grows with the number of calls, in words, or None.

    Args:
        readings: the gauges after so many calls.
        end: whether no further calls are made; until then only what is more than enough counts.
    """
    calls = sorted(readings)[-_STRETCHES - 1 :]
    if len(calls) <= _STRETCHES:
        return None
    for name in readings[calls[-1]]:
        held = [readings[n][name] for n in calls]
        rates = [(held[i + 1] - held[i]) / (calls[i + 1] - calls[i]) for i in range(len(calls) - 1)]
        enough = held[-1] - held[0] >= _ENOUGH.get(name, _ENOUGH_BYTES)
        least = _LEAST.get(name, 0)
        if (
            (end or enough)
            and min(rates) > 0
            and min(rates) >= least
            and min(rates) * _FACTOR >= max(rates)
        ):
            made = calls[-1] - calls[0]
            return f"{held[-1] - held[0]} {name} more after {made} calls, {rates[-1]:.3g} a call"
    return None
