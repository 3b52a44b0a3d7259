"""SGLang's Triton kernel for decoding behind a paged cache, for ``python -m harness check``.

python -m harness check examples/sglang_attention.py:decode --triton
"""

import torch
from paging import paged
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
from torch import Tensor

PAGE_SIZES = (16, 1, 64, 32)
SPLITS = (4, 1, 7)
# Of heads on one of several KV heads: tiles of 16 heads would reach into the next group.
UNEVEN_GROUPS = [group for group in range(17, 256) if group % 16]


def decode(
    query,
    key_cache,
    value_cache,
    input_pos,
    scale=None,
    softcap=None,
    window=None,
    sink_logits=None,
) -> Tensor:
    """``decode_attention_fwd``, both stages; a window is the slots that it is given."""
    batch, heads, _, dim = query.shape
    if key_cache.size(1) > 1 and heads // key_cache.size(1) in UNEVEN_GROUPS:
        raise NotImplementedError("FINDINGS.md, decode-group-above-16")
    slots, value_dim = value_cache.shape[2:]
    page_size, splits = PAGE_SIZES[slots % 4], SPLITS[slots % 3]
    keys, values, table = paged(key_cache, value_cache, page_size)
    lengths = input_pos + 1
    first = torch.zeros_like(lengths) if window is None else (lengths - window).clamp(min=0)
    attended = [torch.arange(int(a), int(b)) for a, b in zip(first, lengths, strict=True)]
    where = [
        t[j // page_size] * page_size + j % page_size for t, j in zip(table, attended, strict=True)
    ]
    starts = torch.nn.functional.pad((lengths - first).cumsum(0), (1, 0))
    out = query.new_empty(batch, heads, value_dim)
    decode_attention_fwd(
        query[:, :, 0],
        keys.flatten(0, 1),
        values.flatten(0, 1),
        out,
        starts.int(),
        torch.cat(where).long(),
        torch.empty(batch, heads, splits, value_dim),
        torch.empty(batch, heads, splits),
        torch.full((batch,), splits, dtype=torch.int32),
        splits,
        dim**-0.5 if scale is None else scale,
        1.0,
        1.0,
        logit_cap=softcap or 0.0,
        sinks=sink_logits,
        page_size=page_size,
    )
    return out[:, :, None]


def multihead(*arguments, **options) -> Tensor:
    """The same with a KV head for each query head, for which there is another kernel."""
    return decode(*arguments, **options)


multihead.supports = {
    "ragged", "softcap", "scale", "value_dim", "window", "sink", "nonfinite_tail",
}  # fmt: skip
# It rounds each product of q and k to the inputs' dtype.
multihead.precision = {"fp16": {"operand": "fp16"}, "bf16": {"operand": "bf16"}}
decode.supports = multihead.supports | {"gqa"}
decode.requires = {"gqa"}
