"""Functions whose numbers are right and whose conduct is not: what they do to the process, what
they return, what they say."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import sys

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import dense, filled
from tests.functions.shown import Once, Raises
from tests.functions.shown_conduct import Aliases, Ends, Grows, Refuses, Sets

SMALL = "S=40,pos=10,H=2,D=16"
PLACE = r"conduct\.py"


@faulty("CRASH", Ends("S=400,pos=390,D=16"), says=r"case +S=", supports="gqa")
def exits_with_status_0(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Over more than 300 slots the process ends with status 0, as a library does that has shut down
    its runtime."""
    if filled(k, p, 1) > 300:
        os._exit(0)
    return dense(q, k, v, p)


@faulty("CRASH", Ends("S=600,pos=590,D=16"), says="misaligned address", supports="gqa")
def aborts_with_a_message(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Over more than 512 slots the library says what is wrong on stderr, and aborts."""
    if filled(k, p, 1) > 512:
        os.write(2, b"decode_kernel.cu:117: misaligned address\n")
        ctypes.CDLL(None).abort()
    return dense(q, k, v, p)


@faulty("ERROR", Raises("S=40,pos=10,D=32", "einsum"), says=PLACE, supports="gqa")
def raises_inside_torch(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """With D of 32 and no group a shape does not fit, which torch says in a frame of its own."""
    if q.size(3) == 32 and q.size(1) == k.size(1):
        return torch.einsum("bhqd,bhsd->bhqs", q, k[..., 1:])
    return dense(q, k, v, p)


@faulty("MUTATED WRONG", Grows(SMALL), supports="gqa ragged")
def output_requires_grad(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The output comes from a learned gain of 1, with gradients on."""
    gain = torch.nn.Parameter(torch.ones((), dtype=q.dtype))
    with torch.enable_grad():
        return dense(q, k, v, p) * gain


@faulty("MUTATED", Sets(SMALL), supports="gqa ragged")
def gradients_left_on(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Gradients are switched off for the kernel, and on afterwards, whatever they were before."""
    torch.set_grad_enabled(False)
    output = dense(q, k, v, p)
    torch.set_grad_enabled(True)
    return output


@faulty("MUTATED", Sets(SMALL), supports="gqa")
def python_random_seeded(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Python's random numbers are seeded, to choose the same plan in every call."""
    random.seed(0)
    return dense(q, k, v, p)


@faulty("MUTATED", Sets(SMALL), supports="gqa")
def numpy_random_drawn(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A number is drawn from NumPy's global random state."""
    import numpy

    numpy.random.rand()
    return dense(q, k, v, p)


@faulty("MUTATED", Sets("S=200,pos=150,D=16"), supports="gqa")
def one_thread_for_long(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Over 128 slots the number of threads is changed, and not put back."""
    output = dense(q, k, v, p)
    if filled(k, p, 1) > 128:
        torch.set_num_threads(3)
    return output


@faulty("MUTATED", Sets(SMALL), supports="gqa")
def garbage_collection_left_off(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Garbage collection is switched off for the time of the kernel, and stays off."""
    gc.disable()
    return dense(q, k, v, p)


@faulty("MUTATED", Sets(SMALL), supports="gqa")
def environment_changed(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A variable of the environment is set, to tell a library which device to take."""
    os.environ["DECODE_DEVICE"] = "0"
    return dense(q, k, v, p)


@faulty("MUTATED", Sets("S=300,pos=290,D=16,dtype=bf16"), supports="gqa")
def default_dtype_left_behind(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """In a narrow dtype over more than 256 slots an early return leaves the default dtype as it was
    set for the workspace."""
    n, before = filled(k, p, 1), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if n <= 256 else q.dtype)
    output = dense(q.float(), k.float(), v.float(), p).to(q.dtype)
    if n <= 256:
        torch.set_default_dtype(before)
    return output


@faulty("MUTATED", Aliases("S=40,pos=0,H=2,D=16"), supports="gqa")
def value_of_the_only_slot(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """At position 0 the output is the value itself, and without a group it is a view of the cache,
    which later calls write to."""
    if int(p.max()) == 0 and q.size(1) == k.size(1):
        return v[:, :, :1]
    return dense(q, k, v, p)


@faulty("MUTATED", Aliases("S=40,pos=10,H=16,D=16"), supports="gqa")
def writes_into_the_query(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The output is written into the query to save memory, from 16 heads on."""
    output = dense(q, k, v, p)
    return q.copy_(output) if q.size(1) >= 16 else output


@faulty("WRONG LEAK", Once("S=800,pos=700,D=16,mask=window:400"), supports="window gqa")
def window_ignored_when_wide(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """A window of more than 256 slots is accepted, and ignored."""
    return dense(q, k, v, p, window=window if window and window <= 256 else None)


@faulty("OK", Once("S=40,pos=30,D=16,mask=window:4"), says="window", supports="gqa ragged")
def window_taken_undeclared(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None
) -> Tensor:
    """A window is taken and ignored, but not declared: nothing was judged with it, which is worth
    a hint."""
    return dense(q, k, v, p)


@faulty(
    "OK",
    Refuses("S=100,pos=50", ("S=64,pos=50", "S=1000,pos=5", "S=128,pos=4")),
    says=r"(?i)(most|\d+ of \d+|\d+ %).*UNSUPPORTED|UNSUPPORTED.*(most|\d+ of \d+|\d+ %)",
    supports="gqa",
)
def mostly_refuses(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Takes only caches of a multiple of 128 slots, so that OK is said of few of the cases: this
    is to be said first."""
    if k.size(2) % 128:
        raise NotImplementedError("a multiple of 128 slots")
    return dense(q, k, v, p)


@faulty("MUTATED", Sets(SMALL), supports="gqa")
def recursion_limit_raised(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The limit of recursion is raised for a tracer."""
    sys.setrecursionlimit(20_000)
    return dense(q, k, v, p)
