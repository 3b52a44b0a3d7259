"""Sound functions that differ in how and in which order they compute."""

from __future__ import annotations

import itertools
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.functions.entry import sound
from tests.functions.parts import (
    dense,
    even,
    filled,
    finished,
    merged,
    partial,
    scores,
    seen,
    shifted,
    split,
    tiles,
    times,
)
from tests.support.targets import sound as whole

ALL = "gqa ragged chunk idle window sinks prefix dilated softcap alibi sink scale value_dim strided"
COMMON = "gqa ragged chunk"


@sound(supports=ALL)
def at_once(q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
    """All filled slots at once, every option."""
    return dense(q, k, v, p, **options)


@sound(supports=ALL + " nonfinite_tail")
def whole_contract(q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
    """The whole contract, tails that are not finite among it."""
    return whole(q, k, v, p, **options)


@sound(supports=COMMON + " scale value_dim strided")
def sdpa(q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float | None = None) -> Tensor:
    """torch's SDPA over the whole cache with a mask, in the dtype of the inputs."""
    mask = seen(p, q.size(2), torch.arange(k.size(2)))[:, 0]
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


@sound(supports="gqa strided")
def sdpa_of_a_slice(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """torch's SDPA over the filled slots, without a mask."""
    n = filled(k, p, 1)
    return F.scaled_dot_product_attention(
        q, k[:, :, :n], v[:, :, :n], enable_gqa=q.size(1) != k.size(1)
    )


def _online(size: int, q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
    n = filled(k, p, q.size(2), options.get("prefix", 0))
    running = None
    for a, b in tiles(n, size):
        part = partial(scores(q, k[:, :, a:b], p, start=a, **options), v[:, :, a:b])
        running = part if running is None else merged([running, part])
    assert running is not None
    return finished(running, q)


@sound(supports=COMMON + " window")
def online_by_16(q: Tensor, k: Tensor, v: Tensor, p: Tensor, window: int | None = None) -> Tensor:
    """Online softmax over tiles of 16 slots, up to 64 of them; longer tiles beyond."""
    n = filled(k, p, q.size(2))
    return _online(max(16, n // 64), q, k, v, p, window=window)


@sound(supports=COMMON + " idle alibi")
def online_by_128(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """Online softmax over tiles of 128 slots."""
    return _online(128, q, k, v, p, alibi_slopes=alibi_slopes)


@sound(supports=COMMON + " softcap")
def online_by_1000(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, softcap: float | None = None
) -> Tensor:
    """Online softmax over tiles of 1000 slots."""
    return _online(1000, q, k, v, p, softcap=softcap)


@sound(supports=ALL)
def split_in_8(q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
    """Eight even splits, merged by their largest scores."""
    n = filled(k, p, q.size(2), options.get("prefix", 0))
    return split(q, k, v, p, even(n, 8), **options)


@sound(supports=COMMON + " dilated sinks window")
def split_by_256(q: Tensor, k: Tensor, v: Tensor, p: Tensor, **options: Any) -> Tensor:
    """As many splits of 256 slots as there are."""
    return split(q, k, v, p, tiles(filled(k, p, q.size(2)), 256), **options)


@sound(supports=COMMON)
def split_by_doubling(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Splits of 1, 2, 4 and so on slots."""
    n = filled(k, p, q.size(2))
    edges = [min(n, 2**i - 1) for i in range(22)]
    return split(q, k, v, p, [(a, b) for a, b in itertools.pairwise(edges) if a < b])


@sound(supports=COMMON)
def powers_of_two(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """exp(x) as exp2(x log2(e)), with the factor in the scale."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p, scale=q.size(3) ** -0.5 * math.log2(math.e))
    highest = s.amax(-1, keepdim=True)
    e = torch.exp2(s - shifted(highest))
    return finished((highest, e.sum(-1, keepdim=True), times(e, v[:, :, :n].float())), q)


@sound(supports=COMMON)
def exponent_and_fraction(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """exp2 of the whole and of the fractional part apart."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    highest = s.amax(-1, keepdim=True)
    x = (s - shifted(highest)) * math.log2(math.e)
    whole_part = x.floor().clamp(min=-140.0)
    e = torch.exp2(whole_part) * torch.exp2((x - whole_part).clamp(0.0, 1.0))
    e = e.masked_fill(s == -math.inf, 0.0)
    return finished((highest, e.sum(-1, keepdim=True), times(e, v[:, :, :n].float())), q)


@sound(supports=COMMON)
def reversed_order(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Tiles of 64 slots from the last to the first, up to 64 of them."""
    n = filled(k, p, q.size(2))
    return split(q, k, v, p, list(tiles(n, max(64, n // 64)))[::-1])


@sound(supports="gqa ragged")
def permuted_slots(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Slots are shuffled, the same way for the same length."""
    n = filled(k, p, 1)
    order = list(range(n))
    random.Random(n).shuffle(order)
    s = scores(q, k[:, :, :n], p)[..., order]
    highest, total, weighted = partial(s, v[:, :, order])
    return finished((highest, total, weighted), q)


@sound(supports="gqa ragged")
def sorted_scores(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The denominator is summed from the smallest exponential to the largest, in float32."""
    n = filled(k, p, 1)
    s = scores(q, k[:, :, :n], p)
    highest, _, weighted = partial(s, v[:, :, :n])
    e = torch.exp(s.sort(-1).values - shifted(highest))
    return finished((highest, e.sum(-1, keepdim=True), weighted), q)


@sound(supports="gqa chunk")
def head_by_head(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A loop over sequences and heads, with vectors."""
    output = q.new_zeros(*q.shape[:3], v.size(3))
    group = q.size(1) // k.size(1)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            for i in range(q.size(2)):
                n = int(p[b]) + i + 1
                s = k[b, h // group, :n].float() @ q[b, h, i].float() * q.size(3) ** -0.5
                weights = torch.softmax(s, 0)
                output[b, h, i] = (weights @ v[b, h // group, :n].float()).to(q.dtype)
    return output


@sound(supports="gqa ragged strided value_dim")
def repeated_heads(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """KV heads are repeated for their group, sequence by sequence."""
    group = q.size(1) // k.size(1)
    outputs = []
    for b, t in enumerate(p.tolist()):
        keys, values = (
            cache[b : b + 1, :, : t + 1].repeat_interleave(group, 1) for cache in (k, v)
        )
        outputs.append(dense(q[b : b + 1], keys, values, p[b : b + 1]))
    return torch.cat(outputs)


@sound(supports="gqa ragged")
def in_float64(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """All arithmetic in float64."""
    n = filled(k, p, 1)
    s = times(q.double().unflatten(1, (k.size(1), -1)), k[:, :, :n].double().mT)
    hidden = ~seen(p, 1, torch.arange(n))
    weights = torch.softmax((s * q.size(3) ** -0.5).masked_fill(hidden, -math.inf), -1)
    return times(weights, v[:, :, :n].double()).flatten(1, 2).to(q.dtype)


@sound(supports="gqa ragged")
def in_numpy(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """NumPy's einsum and exp, in float32."""
    import numpy as np

    n = filled(k, p, 1)
    query = q.float().unflatten(1, (k.size(1), -1)).numpy()
    s = np.einsum("bhgqd,bhsd->bhgqs", query, k[:, :, :n].float().numpy())
    s = s * np.float32(q.size(3) ** -0.5)
    s = np.where(seen(p, 1, torch.arange(n)).numpy(), s, -np.inf).astype(np.float32)
    e = np.exp(s - s.max(-1, keepdims=True))
    output = np.einsum("bhgqs,bhsd->bhgqd", e / e.sum(-1, keepdims=True), v[:, :, :n].float())
    return torch.from_numpy(output.astype(np.float32)).flatten(1, 2).to(q.dtype)


@sound(supports=COMMON)
def lazy_rescaling(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """What was summed is rescaled only where the maximum grew by more than 8, as in recent flash
    kernels."""
    n = filled(k, p, q.size(2))
    used = total = weighted = None
    for a, b in tiles(n, 128):
        s = scores(q, k[:, :, a:b], p, start=a)
        top = s.amax(-1, keepdim=True)
        if used is None:
            used, total, weighted = partial(s, v[:, :, a:b])
            continue
        new = torch.where(top > used + 8, top, used)
        factor = torch.exp(used - shifted(new))
        e = torch.exp(s - shifted(new))
        total = total * factor + e.sum(-1, keepdim=True)
        weighted = weighted * factor + times(e, v[:, :, a:b].float())
        used = new
    assert used is not None
    return finished((used, total, weighted), q)


@sound(supports="gqa ragged chunk")
def output_of_another_layout(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The output is a transposed view, [B, Q, H, D] in memory."""
    return dense(q, k, v, p).transpose(1, 2).contiguous().transpose(1, 2)


@sound(supports="gqa ragged")
def padded_batch(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The batch is padded to a multiple of 4 with idle sequences that see the first one's cache."""
    spare = -len(p) % 4
    index = torch.cat([torch.arange(len(p)), torch.zeros(spare, dtype=torch.int64)])
    positions = torch.cat([p, p.new_full((spare,), -1)])
    return dense(q[index], k[index], v[index], positions)[: len(p)]


@sound(supports="gqa ragged")
def padded_slots(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The filled slots are padded with zeros to a multiple of 128."""
    n = filled(k, p, 1)
    keys, values = (F.pad(cache[:, :, :n], (0, 0, 0, -n % 128)) for cache in (k, v))
    return split(q, keys, values, p, [(0, keys.size(2))])


_POOL: list[ThreadPoolExecutor] = []


@sound(supports="gqa ragged")
def two_threads(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Two threads of a pool that is kept take half of the slots each; they are merged in order."""
    if not _POOL:
        _POOL.append(ThreadPoolExecutor(2))

    def run(edges: tuple[int, int]) -> Any:
        a, b = edges
        with torch.no_grad():
            return partial(scores(q, k[:, :, a:b], p, start=a), v[:, :, a:b])

    return finished(merged(_POOL[0].map(run, list(even(filled(k, p, 1), 2)))), q)


@sound(supports="gqa ragged")
def slow(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Right, and takes 60 ms more than it needs."""
    time.sleep(0.06)
    return dense(q, k, v, p)
