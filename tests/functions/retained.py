"""Functions that hand out what they keep, or keep more with every call."""

from __future__ import annotations

import os
import threading
from typing import Any

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import dense
from tests.functions.shown_conduct import Held, Retained

SMALL = "S=40,pos=10,H=2,D=16"

_OUTPUTS: dict[Any, Tensor] = {}


@faulty("MUTATED STALE", Held(SMALL), supports="gqa")
def output_buffer_handed_out(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The output buffer is kept by shape and handed out, so that the next call changes what the
    last one returned; nothing declares it."""
    output = dense(q, k, v, p)
    return _OUTPUTS.setdefault((*output.shape, q.dtype), torch.empty_like(output)).copy_(output)


_PAIRS: dict[Any, list[Tensor]] = {}


@faulty("MUTATED STALE", Held(SMALL, 2), supports="gqa")
def two_output_buffers_in_turn(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Two output buffers are used in turn, so that an output lives for one further call."""
    output = dense(q, k, v, p)
    key = *output.shape, q.dtype
    pair = _PAIRS.setdefault(key, [torch.empty_like(output), torch.empty_like(output)])
    pair.reverse()
    return pair[0].copy_(output)


_LEAKED: list[Tensor] = []


@faulty("RETAINED", Retained(SMALL, 20))
def two_megabytes_a_call(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A workspace of 2 MB is made in each call and put on a list of all workspaces."""
    _LEAKED.append(torch.ones(2**19))
    return dense(q, k, v, p)


_HISTORY: list[Tensor] = []


@faulty("RETAINED OOM", Retained("S=800,pos=10,H=16,D=64", 20), supports="gqa")
def debug_copies_of_scores(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converted keys are kept for debugging, in a list that nobody empties: the larger the cache,
    the faster it grows."""
    _HISTORY.append(k.float().clone())
    return dense(q, k, v, p)


_STOP = threading.Event()


@faulty("RETAINED", Retained(SMALL, 20))
def thread_left_behind(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Each call starts a thread that is to prefetch, and never ends."""
    threading.Thread(target=_STOP.wait, daemon=True).start()
    return dense(q, k, v, p)


_FILES: list[int] = []


@faulty("RETAINED", Retained(SMALL, 20))
def open_file_a_call(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Each call opens a file to look something up, and leaves it open."""
    _FILES.append(os.open(os.devnull, os.O_RDONLY))
    return dense(q, k, v, p)
