"""Functions that are wrong once in a while, whatever they are given."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    even,
    filled,
    finished,
    merged,
    partial,
    scores,
    split,
    tiles,
)
from tests.functions.shown import Repeated

# Chance from the system, so that no random state of the process is touched.
_CHANCE = random.SystemRandom()
ONCE = "NONDETERMINISTIC"


@faulty(ONCE, Repeated("S=100,pos=90,D=16", 200), supports="gqa ragged")
def one_in_twenty(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Of two splits one may be read before it is written, once in twenty calls."""
    borders = list(even(filled(k, p, 1), 2))
    return split(q, k, v, p, borders[:1] if _CHANCE.random() < 0.05 else borders)


@faulty(ONCE, Repeated("S=100,pos=90,D=16", 10000), supports="gqa ragged")
def one_in_a_thousand(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A barrier is missing whose lack shows once in a thousand calls: one head takes another's
    maximum."""
    output = dense(q, k, v, p)
    if _CHANCE.random() < 0.001:
        output[:, 0] *= 1.25
    return output


@faulty(ONCE, Repeated("S=600,pos=590,H=4,D=16", 20), supports="gqa ragged chunk")
def splits_added_as_they_come(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Splits of 64 slots are added atomically, so that the order of the sum varies, and with it the
    last bits."""
    parts = [
        partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b])
        for a, b in tiles(filled(k, p, q.size(2)), 64)
    ]
    _CHANCE.shuffle(parts)
    return finished(merged(parts), q)


@faulty(ONCE, Repeated("S=600,pos=590,H=8,Hkv=2,D=16", 2000), supports="gqa")
def race_of_two_warps(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """With a group of 4 and more over at least 256 slots, two warps share a maximum; once in fifty
    calls one of them reads it too early."""
    n = filled(k, p, 1)
    output = dense(q, k, v, p)
    if q.size(1) >= 4 * k.size(1) and n >= 256 and _CHANCE.random() < 0.02:
        output[:, -1] *= 0.5
    return output


@faulty(ONCE, Repeated("S=300,pos=290,H=2,D=16", 3000), supports="gqa")
def stale_flag_once_in_200(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A flag that says a split is done may still stand from the last call, once in 200 calls: the
    newest slot is then missing."""
    n = filled(k, p, 1)
    return split(q, k, v, p, [(0, max(1, n - 1) if _CHANCE.random() < 0.005 else n)])


@faulty(ONCE, Repeated("S=300,pos=290,H=2,D=16", 400), supports="gqa ragged")
def dropout_left_on(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Dropout of one weight in a thousand is left on, from a generator of the function's own."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest, total, _ = part = partial(s, v[:, :, :n])
    if _CHANCE.random() < 0.5 and n > 1:
        slot = _CHANCE.randrange(n - 1)
        lost = torch.exp(s[..., slot : slot + 1] - highest) * v[:, :, None, None, slot].float()
        part = highest, total, part[2] - lost
    return finished(part, q)
