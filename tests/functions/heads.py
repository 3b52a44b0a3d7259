"""Functions that are wrong for some numbers of heads, sequences and dims."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.functions.entry import faulty
from tests.functions.parts import (
    dense,
    filled,
    finished,
    from_scores,
    partial,
    products,
    scores,
    shifted,
    split,
    times,
)
from tests.functions.shown import Once


def _on_kv_heads(q: Tensor, k: Tensor, v: Tensor, p: Tensor, head: Tensor) -> Tensor:
    """Query head h attends KV head ``head[h]``."""
    return dense(q, k[:, head], v[:, head], p)


@faulty("WRONG", Once("S=40,pos=30,H=12,Hkv=2,D=16"), supports="gqa ragged chunk")
def group_by_shift(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The KV head is ``h >> log2(group)``, the logarithm rounded up, in groups above 4."""
    group = q.size(1) // k.size(1)
    shift = (group - 1).bit_length()
    heads = torch.arange(q.size(1))
    return _on_kv_heads(q, k, v, p, heads >> shift if group > 4 else heads // group)


@faulty("WRONG", Once("S=40,pos=30,H=10,D=16,Hkv=1"), supports="gqa ragged")
def group_above_eight(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Eight query heads of a group are packed into a tile's rows; the ninth and later ones get
    the eighth's result."""
    group = q.size(1) // k.size(1)
    row = torch.arange(q.size(1))
    first = row // group * group
    return dense(q, k, v, p)[:, first + (row - first).clamp(max=7)]


@faulty("WRONG", Once("S=40,pos=30,H=24,D=16,Hkv=2"), supports="gqa ragged")
def group_of_twelve(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A group of 12 is a tile of 8 and one of 4, which takes the KV head that follows."""
    group = q.size(1) // k.size(1)
    heads = torch.arange(q.size(1))
    late = (heads % group >= 8) if group % 8 and group > 8 else torch.zeros_like(heads).bool()
    return _on_kv_heads(q, k, v, p, (heads // group + late) % k.size(1))


@faulty("WRONG", Once("S=40,pos=30,H=18,D=16,Hkv=3"), supports="gqa")
def group_of_six_padded(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A group of 6 is padded to 8 rows, and the output is written with that stride as long as it
    lies inside: KV heads after the first land on foreign rows."""
    group, kv_heads = q.size(1) // k.size(1), k.size(1)
    output = dense(q, k, v, p)
    if group != 6:
        return output
    padded = torch.zeros_like(output)
    for h in range(kv_heads):
        end = min(h * 8 + group, q.size(1))
        padded[:, h * 8 : end] = output[:, h * group : h * group + max(0, end - h * 8)]
    return padded


@faulty("WRONG", Once("S=40,pos=30,H=12,D=16"))
def ninth_head_without_group(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Heads are taken in eights; without a group, the second eight reads the keys of the first."""
    head = torch.arange(q.size(1)) % 8
    return dense(q, k[:, head], v, p)


@faulty("WRONG", Once("S=40,pos=30,H=20,D=16"), supports="alibi")
def slopes_of_sixteen_heads(
    q: Tensor, k: Tensor, v: Tensor, p: Tensor, alibi_slopes: Tensor | None = None
) -> Tensor:
    """Constant memory holds 16 heads' running sums; a 17th head adds up to the first's."""
    output = dense(q, k, v, p, alibi_slopes=alibi_slopes)
    output[:, 16:] = output[:, : max(0, q.size(1) - 16)]
    return output


@faulty("WRONG LEAK", Once("S=40,pos=30/3/7/20/11,D=16"), supports="ragged gqa")
def lengths_of_four(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The lengths of four sequences fit in one load; the fifth sequence takes the first's."""
    return dense(q, k, v, p[torch.arange(len(p)) % 4])


@faulty("WRONG", Once("S=40,pos=30,B=6,H=2,D=16"), supports="gqa chunk")
def batch_in_buckets(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Graphs are captured for 1, 2, 3, 4 and 8 sequences; five to seven run in the graph of 8,
    whose output is cut from the end."""
    output = dense(q, k, v, p)
    if not 4 < len(p) < 8:
        return output
    padded = torch.cat([output, torch.zeros_like(output[: 8 - len(p)])])
    return padded[8 - len(p) :].clone()


@faulty("WRONG", Once("S=40,pos=30,H=2,D=80"), head_dims=(64, 80, 112, 128))
def scale_of_padded_dims(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The head dim is padded to a power of two, and the scale is that of the padded one."""
    if q.size(3) not in (64, 80, 112, 128):
        raise NotImplementedError("head dims 64, 80, 112, 128")
    return dense(q, k, v, p, scale=(1 << (q.size(3) - 1).bit_length()) ** -0.5)


@faulty("WRONG", Once("S=40,pos=30,H=2,D=96"), head_dims=(64, 96, 128), supports="ragged")
def second_chunk_of_96(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Dims are multiplied 64 at a time, ``D // 64`` times: of 96 the last 32 are left out of the
    scores."""
    if q.size(3) not in (64, 96, 128):
        raise NotImplementedError("head dims 64, 96, 128")
    used = q.size(3) // 64 * 64
    return split(
        q[..., :used], k[..., :used], v, p, [(0, filled(k, p, 1))], scale=q.size(3) ** -0.5
    )


@faulty("WRONG LEAK", Once("S=40,pos=30,D=72"), head_dims=(40, 64, 72, 128))
def vectors_of_16_dims(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Values are loaded 16 dims at a time; the last 8 of 40 or 72 are those of the slot before."""
    if q.size(3) not in (40, 64, 72, 128):
        raise NotImplementedError("head dims 40, 64, 72, 128")
    rest = v.size(3) % 16
    if not rest:
        return dense(q, k, v, p)
    moved = v.clone()
    moved[..., -rest:] = v.roll(1, 2)[..., -rest:]
    return dense(q, k, moved, p)


@faulty("WRONG", Once("S=700,pos=650,H=32,Hkv=8,D=128,dtype=bf16"), supports="gqa")
def tensor_cores_alone(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """The path for tensor cores, taken with 8 KV heads of 128 dims in a narrow dtype, loads the
    last block of 64 slots ahead and skips the one before it."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    if q.dtype != torch.float32 and k.size(1) >= 8 and k.size(3) == 128 and n > 512:
        last = (n - 1) // 64 * 64
        s[..., last - 64 : last] = -torch.inf
    return from_scores(s, v[:, :, :n], q)


@faulty("WRONG", Once("S=30,pos=20,H=40,Hkv=1,D=16,Q=4"), supports="gqa chunk ragged")
def rows_of_a_packed_tile(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """A group and its query tokens are packed into 128 rows; what does not fit is left at 0."""
    rows = q.unflatten(1, (k.size(1), -1)).flatten(2, 3)
    output = dense(q, k, v, p).unflatten(1, (k.size(1), -1))
    if rows.size(2) > 128:
        output.flatten(2, 3)[:, :, 128:] = 0
    return output.flatten(1, 2)


@faulty("WRONG", Once("S=600,pos=500/20/590/3/100/7/8/9,H=4,D=16"), supports="ragged gqa")
def empty_splits_of_short_sequences(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """In a batch of 8 and more, a sequence without a slot in the last split leaves the maximum that
    the shared memory held, of the sequence before."""
    n = filled(k, p, q.size(2))
    s = scores(q, k[:, :, :n], p)
    highest, total, weighted = partial(s, v[:, :, :n])
    if len(p) >= 8:
        stale = torch.maximum(highest, highest.roll(1, 0))
        last = (p < (n - 1) // 256 * 256).view(-1, 1, 1, 1, 1)
        total = torch.where(last & (n > 256), total * torch.exp(shifted(highest) - stale), total)
    return finished((highest, total, weighted), q)


@faulty("WRONG", Once("S=60,pos=50,H=2,D=16,Dv=128"), supports="value_dim")
def output_tile_of_the_key(q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
    """Values wider than 96 dims beside narrower keys are multiplied with the weights of a tile that
    ends with the key's last full group of 32 slots."""
    n = filled(k, p, q.size(2))
    e = torch.softmax(products(q, k[:, :, :n]), -1)
    if v.size(3) > 96 and q.size(3) < v.size(3) and n >= 32:
        e[..., n - n % 32 :] = 0.0
    return times(e, v[:, :, :n].float()).flatten(1, 2).to(q.dtype)
