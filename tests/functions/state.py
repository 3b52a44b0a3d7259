"""Functions that keep something between calls, and are wrong for it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import dense, filled, from_scores, products, scores, seen, split, tiles
from tests.functions.shown import InPlace, InTurn, growing

LATE = "STALE WRONG"
SMALL = "S=40,pos=10,H=2,D=16"


def _kept() -> dict[Any, Any]:
    """Something of a function's own that outlives its calls."""
    return {}


_BY_ID = _kept()


@faulty(LATE, growing(f"{SMALL},dtype=bf16", 1), supports="gqa ragged")
def converted_by_id(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Caches converted to float32 are kept by the id of the tensor, as if those were never written
    to again."""
    for cache in (k, v):
        if id(cache) not in _BY_ID:
            if len(_BY_ID) >= 2:
                _BY_ID.clear()
            _BY_ID[id(cache)] = (cache, cache.float())
    return dense(q, _BY_ID[id(k)][1], _BY_ID[id(v)][1], p)


_BY_ADDRESS = _kept()


@faulty(LATE, growing(SMALL, 1), supports="gqa ragged")
def converted_by_address(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Keys converted to float32 are kept by address and shape."""
    place = k.data_ptr(), k.shape, k.dtype
    if place not in _BY_ADDRESS:
        if len(_BY_ADDRESS) >= 2:
            _BY_ADDRESS.clear()
        _BY_ADDRESS[place] = k.float().clone()
    return dense(q, _BY_ADDRESS[place], v, p)


_MASKS = _kept()


@faulty(LATE, InTurn(SMALL, ("pos=20",)), supports="gqa")
def mask_by_shape(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The mask is built at the first call of a shape, for the position of that call."""
    shape = q.size(0), k.size(2)
    if shape not in _MASKS:
        _MASKS[shape] = seen(p, 1, torch.arange(k.size(2)))
    s = products(q, k).masked_fill(~_MASKS[shape], -torch.inf)
    return from_scores(s, v, q)


_PLAN = _kept()


@faulty(LATE, InTurn("S=900,pos=100,D=16", ("pos=800",)), supports="gqa ragged")
def plan_of_the_first_call(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """How many splits of 128 slots there are is planned once, with the first call's length and some
    room."""
    n = filled(k, p, 1)
    count = _PLAN.setdefault("splits", max(4, 2 * -(-n // 128)))
    return split(q, k, v, p, list(tiles(n, 128))[:count])


_SUMS = _kept()


@faulty(
    "STALE WRONG NONDETERMINISTIC",
    InTurn("S=40,pos=10/5,D=16", ("pos=-1/5",)),
    supports="ragged idle",
)
def idle_rows_keep_the_last(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Output goes to a workspace that is kept by shape; idle sequences are skipped, so that their
    rows hold what the last call left, and the function hands out a copy."""
    workspace = _SUMS.setdefault((*q.shape, v.size(3), q.dtype), torch.zeros_like(q))
    live = p >= 0
    workspace[live] = dense(q, k, v, p)[live]
    return workspace.clone()


_POSITIONS = _kept()


@faulty(LATE, InPlace(SMALL, ("pos=11", "pos=12", "pos=5")), supports="gqa")
def position_advanced_inside(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The position is read at the first call for a cache, and counted up by one with each further
    call that has another query, so that a rollback is not seen."""
    key = k.data_ptr(), k.shape, len(p)
    known = _POSITIONS.get(key)
    if known is None or known[0] + 1 >= k.size(2) or int(p[0]) == 0:
        known = (int(p[0]), q.clone())
    elif not torch.equal(known[1], q):
        known = (known[0] + 1, q.clone())
    if len(_POSITIONS) > 64:
        _POSITIONS.clear()
    _POSITIONS[key] = known
    return dense(q, k, v, torch.full_like(p, known[0]))


_RESULTS = _kept()


@faulty(LATE, InTurn(SMALL, ("seed=1",)), supports="gqa ragged")
def result_by_position(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The last result is returned again where shapes and positions are the same, as for layers that
    share their attention."""
    key = q.shape, k.shape, v.shape, q.dtype, tuple(p.tolist())
    if key not in _RESULTS:
        _RESULTS.clear()
        _RESULTS[key] = dense(q, k, v, p)
    return _RESULTS[key].clone()


_CALLS = {"epoch": 0, "ring": 0}


@faulty(f"{LATE} NONDETERMINISTIC", growing("S=200,pos=10,D=16", 130), supports="gqa ragged")
def epoch_wraps(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Splits mark their results with an epoch of a signed byte instead of clearing flags: from the
    128th call on the last split counts as not yet there."""
    _CALLS["epoch"] += 1
    n = filled(k, p, 1)
    borders = list(tiles(n, max(1, -(-n // 4))))
    return split(q, k, v, p, borders[:-1] if _CALLS["epoch"] >= 128 and n > 4 else borders)


@faulty(f"{LATE} NONDETERMINISTIC", growing("S=700,pos=10,D=16", 520), supports="gqa ragged")
def ring_of_512(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Workspaces come from a ring of 512, whose entries are not cleared when it comes round: what
    is left of an old sum is added."""
    _CALLS["ring"] += 1
    output = dense(q, k, v, p)
    return output * 1.5 if _CALLS["ring"] > 512 else output


_APPENDED = _kept()


@faulty(LATE, InPlace(SMALL, ("pos=11", "pos=12", "seed=3,pos=8")), supports="gqa")
def rollback_keeps_stale_keys(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converted keys are kept for a cache and completed with the slots that are new; slots that
    are written again after a rollback keep their old keys."""
    key, n = (k.data_ptr(), k.shape, k.dtype), filled(k, p, 1)
    known = _APPENDED.get(key)
    if known is None or known.size(2) < n:
        old = 0 if known is None else known.size(2)
        new = k[:, :, old:n].float()
        known = new.clone() if known is None else torch.cat([known, new], 2)
    if len(_APPENDED) > 4:
        _APPENDED.clear()
    _APPENDED[key] = known
    return dense(q, known[:, :, :n], v, p)


_VERSIONS = _kept()


@faulty(LATE, growing(SMALL, 1), supports="gqa")
def two_steps_share_a_conversion(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Converted values of a cache are used for two calls before they are converted again."""
    key = v.data_ptr(), v.shape, v.dtype
    age, values = _VERSIONS.get(key, (2, None))
    if age >= 2 or values is None:
        age, values = 0, v.float().clone()
    if len(_VERSIONS) > 4:
        _VERSIONS.clear()
    _VERSIONS[key] = (age + 1, values)
    return dense(q, k, values, p)


_PINNED = _kept()


@faulty(LATE, growing(SMALL, 1), supports="gqa ragged")
def positions_copied_once(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """To save a synchronisation, positions are read once for each tensor that brings them."""
    key = id(p)
    if key not in _PINNED or _PINNED[key][0] is not p:
        if len(_PINNED) >= 8:
            _PINNED.clear()
        _PINNED[key] = (p, p.clone())
    return dense(q, k, v, _PINNED[key][1])


_GRAPHS = _kept()


@faulty(LATE, InTurn(SMALL, ("seed=1",)), supports="gqa ragged")
def graph_of_the_first_cache(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """As a captured graph: for shapes that are known, query and positions are copied in and the
    caches are those of the first call."""
    key = q.shape, k.shape, v.shape, q.dtype
    if len(_GRAPHS) >= 4:
        _GRAPHS.clear()
    keys, values = _GRAPHS.setdefault(key, (k, v))
    return dense(q, keys, values, p)


_PREFETCHED = _kept()


@faulty(LATE, growing(SMALL, 1), supports="gqa")
def next_slot_prefetched(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The key of the next slot is prefetched in each call, and used in the next one, though it is
    written only in between."""
    key, t = (k.data_ptr(), k.shape), int(p[0])
    known, keys = _PREFETCHED.get(key), k
    if known is not None and known[0] == t:
        keys = k.clone()
        keys[:, :, t] = known[1].to(k.dtype)
    if len(_PREFETCHED) >= 32:
        _PREFETCHED.clear()
    if t + 1 < k.size(2):
        _PREFETCHED[key] = (t + 1, k[:, :, t + 1].clone())
    return dense(q, keys, v, p)


@functools.lru_cache(maxsize=2)
def _transposed(cache: Tensor) -> Tensor:
    return cache.float().mT.contiguous()


@faulty(LATE, growing(SMALL, 1), supports="gqa ragged")
def memoised_transposition(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The transposed keys come from an lru_cache, to which a tensor is the same as long as it is
    the same object."""
    return dense(q, _transposed(k).mT, v, p)


_SCALE = _kept()


@faulty(LATE, InTurn(SMALL, ("D=64",)), supports="gqa ragged chunk")
def scale_of_the_first_head_dim(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The scale is computed once, for the head dim of the first call."""
    return dense(q, k, v, p, scale=_SCALE.setdefault("scale", q.size(3) ** -0.5))


_WARM = _kept()


@faulty("NONDETERMINISTIC STALE WRONG", InTurn(SMALL, ()), supports="gqa")
def first_call_warms_up(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The first call of each dtype only allocates, and returns zeros."""
    if q.dtype not in _WARM:
        _WARM[q.dtype] = True
        return torch.zeros_like(dense(q, k, v, p))
    return dense(q, k, v, p)


_LONGEST = _kept()


@faulty("LEAK STALE WRONG", InTurn("S=600,pos=550,D=16", ("pos=300",)), supports="gqa")
def scores_workspace_not_cleared(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Scores are written to a workspace kept by shape, and read up to the longest length that it
    ever held: behind a shorter one lie an older call's."""
    n, key = filled(k, p, 1), (q.shape, k.shape, q.dtype)
    s = scores(q, k[:, :, :n], p)
    if len(_LONGEST) >= 64 and key not in _LONGEST:
        _LONGEST.clear()
    full = _LONGEST.setdefault(key, torch.full((*s.shape[:-1], k.size(2)), -torch.inf))
    full[..., :n] = s
    return from_scores(full, v, q)
