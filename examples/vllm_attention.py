"""vLLM's Triton kernels for attention behind a paged cache, for ``python -m harness check``.

In an environment as docs/kernels.md has it:

    python -m harness check examples/vllm_attention.py:unified --triton

The page size and the number of splits follow from the number of slots, so that one search meets
several of each.
"""

import os

import torch
from paging import paged
from torch import Tensor
from triton.backends import Backend, backends

# vLLM replaces Triton by stubs where it finds no driver for it. The interpreter needs none.
backends.setdefault("cpu", Backend(compiler=object, driver=object))
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from vllm.v1.attention.ops.triton_decode_attention import decode_attention_fwd  # noqa: E402
from vllm.v1.attention.ops.triton_unified_attention import unified_attention  # noqa: E402

PAGE_SIZES = (16, 1, 64, 32)
SPLITS = (4, 1, 7)
# Of heads on one of several KV heads: tiles of 16 heads would reach into the next group.
UNEVEN_GROUPS = [group for group in range(17, 256) if group % 16]
# vLLM has 16 of them at most, and a power of two.
SEGMENTS = (4, 16, 2)


def _decode(query, keys, values, table, input_pos, page_size, splits, scale, softcap, **options):
    batch, heads = query.shape[:2]
    kv_heads, value_dim = values.shape[2:]
    if kv_heads > 1 and heads // kv_heads in UNEVEN_GROUPS:
        raise NotImplementedError("FINDINGS.md, decode-group-above-16")
    out = query.new_empty(batch, heads, value_dim)
    logsumexp = torch.empty(batch, heads)
    partial = torch.empty(batch, heads, splits, value_dim + 1)
    lengths = (input_pos + 1).int()
    decode_attention_fwd(
        query[:, :, 0], keys, values, out, logsumexp, table, lengths, partial, splits, scale,
        page_size, softcap or 0.0, **options,
    )  # fmt: skip
    return out[:, :, None]


def decode(query, key_cache, value_cache, input_pos, scale=None, softcap=None) -> Tensor:
    """``triton_decode_attention``, both stages, with the kernel for groups."""
    dim, slots = query.size(-1), key_cache.size(2)
    page_size, splits = PAGE_SIZES[slots % 4], SPLITS[slots % 3]
    keys, values, table = paged(key_cache, value_cache, page_size)
    scale = dim**-0.5 if scale is None else scale
    return _decode(query, keys, values, table, input_pos, page_size, splits, scale, softcap)


def multihead(*arguments, **options) -> Tensor:
    """The same with a KV head for each query head, for which there is another kernel."""
    return decode(*arguments, **options)


def latent(query, key_cache, value_cache, input_pos, scale=None, softcap=None) -> Tensor:
    """The same for multi-head latent attention: a slot holds its value and then the rest of its
    key, and the query is 0 where the value is."""
    dim, slots = query.size(-1), key_cache.size(2)
    page_size, splits = PAGE_SIZES[slots % 4], SPLITS[slots % 3]
    value_dim = value_cache.size(-1)
    if dim + value_dim in (288, 576) and value_dim not in (256, 512):
        raise NotImplementedError("a key of 288 or 576 is taken for one whose value has 256 or 512")
    both = torch.cat([value_cache, key_cache], -1)
    query = torch.nn.functional.pad(query, (value_dim, 0))
    keys, _, table = paged(both, both, page_size)
    scale = dim**-0.5 if scale is None else scale
    values = keys[..., :value_dim]
    return _decode(
        query, keys, values, table, input_pos, page_size, splits, scale, softcap, is_mla=True
    )


def unified(
    query,
    key_cache,
    value_cache,
    input_pos,
    scale=None,
    softcap=None,
    window=None,
    sinks=0,
    prefix=None,
    alibi_slopes=None,
    sink_logits=None,
    segments=True,
) -> Tensor:
    """``triton_unified_attention``; with ``segments``, single tokens in segments and reduced."""
    batch, heads, q_len, dim = query.shape
    slots = key_cache.size(2)
    # vLLM's own tables are as wide; the kernel reads past the end of narrower ones.
    keys, values, table = paged(key_cache, value_cache, PAGE_SIZES[slots % 4], aligned=128)
    tokens = query.transpose(1, 2).flatten(0, 1)
    out = torch.empty_like(tokens)
    lengths = torch.where(input_pos < 0, 0, input_pos + q_len).int()
    more = {}
    if segments:
        count = SEGMENTS[slots % 3]
        padded = 1 << (dim - 1).bit_length()
        more |= {
            "seq_threshold_3D": batch,
            "num_par_softmax_segments": count,
            "softmax_segm_output": torch.empty(len(tokens), heads, count, padded),
            "softmax_segm_max": torch.empty(len(tokens), heads, count),
            "softmax_segm_expsum": torch.empty(len(tokens), heads, count),
        }
    if alibi_slopes is not None and sink_logits is not None and q_len > 1:
        # FINDINGS.md, vllm-alibi-beside-sink
        raise NotImplementedError("ALiBi beside a sink in a chunk")
    if sinks:
        more |= {"rswa_prefix_lens": torch.full_like(lengths, sinks), "rswa_window": window}
        window = None
    if prefix is not None:
        if prefix > int(lengths.min()):
            raise NotImplementedError("a prefix that is not in the cache yet")
        more |= {"mm_prefix_range": torch.tensor([[[0, prefix - 1]]] * batch, dtype=torch.int32)}
    unified_attention(
        q=tokens,
        k=keys,
        v=values,
        out=out,
        cu_seqlens_q=torch.arange(0, len(tokens) + 1, q_len, dtype=torch.int32),
        max_seqlen_q=q_len,
        seqused_k=lengths,
        max_seqlen_k=int(lengths.max()),
        softmax_scale=dim**-0.5 if scale is None else scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        block_table=table,
        softcap=softcap or 0.0,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        alibi_slopes=alibi_slopes,
        sinks=sink_logits,
        **more,
    )
    return out.unflatten(0, (batch, q_len)).transpose(1, 2)


def unsplit(*arguments, **options) -> Tensor:
    """The same without segments, as vLLM runs large batches and chunks."""
    return unified(*arguments, **options, segments=False)


multihead.supports = {"ragged", "softcap", "scale", "value_dim", "nonfinite_tail"}
# It multiplies and adds up q . k in the inputs' dtype.
multihead.precision = {"fp16": {"accumulator": "fp16"}, "bf16": {"accumulator": "bf16"}}
decode.supports = latent.supports = multihead.supports | {"gqa"}
decode.requires = latent.requires = {"gqa"}
unified.supports = {
    "gqa", "ragged", "chunk", "window", "sinks", "prefix", "softcap", "alibi", "sink", "scale",
}  # fmt: skip
unsplit.supports = unified.supports | {"idle"}
