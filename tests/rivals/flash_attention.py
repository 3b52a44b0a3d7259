"""FlashAttention's tests of attention with a KV cache.

Read in Dao-AILab/flash-attention. ``tests/test_flash_attn.py`` ``test_flash_attn_kvcache``
(version 2, fp16): the largest error may be 3 times that of a same-dtype PyTorch attention, plus
1e-5; 5 times with ALiBi. ``hopper/test_flash_attn.py``, the test of the same name (version 3,
bf16): 2 times plus 1e-5, and the mean error 1.5 times. Errors are against the same attention
computed in float32 and rounded to the dtype; the same-dtype one scales k instead of q.

Geometries: (q_len, cache) of (1, 128), (1, 339), (3, 799), (3, 1024), ...; 6 query heads with
6, 3 or 1 KV heads, batch 2 (version 2) or 5 (version 3), D among 32 to 256 (128), random numbers of
filled slots, windows of random width, ALiBi slopes in [0, 0.3), left padding, pages of 256 (128).
Left padding is expressed here as a document mask, whose first slot differs by sequence. Longer
caches and chunks are left out for time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.faults.model import Attention, score_mods
from harness.inputs import Inputs
from tests.rivals.rule import Recipe, Rule, Trial

_FILE_2 = "Dao-AILab/flash-attention tests/test_flash_attn.py test_flash_attn_kvcache"
_FILE_3 = "Dao-AILab/flash-attention hopper/test_flash_attn.py test_flash_attn_kvcache"


def same_dtype(inputs: Inputs) -> Tensor:
    """Attention with every product and the weights rounded to the inputs' dtype, k scaled."""
    a = Attention.of(inputs, inputs.query.dtype)
    s = a.query @ (a.key * a.scale).mT
    if a.case.scores:
        s = score_mods(a, s.float())
    weights = torch.softmax(s.masked_fill(~a.allowed, -math.inf), -1).to(a.value.dtype)
    return weights @ a.value


def _largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def _golden(trial: Trial) -> Tensor:
    """Rounded to the dtype, as both files have it."""
    return trial.golden.to(trial.inputs.query.dtype)


def _accepts_2(output: Tensor, trial: Trial) -> bool:
    factor = 5 if trial.inputs.case.score == "alibi" else 3
    truth = _golden(trial)
    return _largest(output, truth) <= factor * _largest(trial.reference, truth) + 1e-5


def _accepts_3(output: Tensor, trial: Trial) -> bool:
    truth = _golden(trial)
    within = _largest(output, truth) <= 2 * _largest(trial.reference, truth) + 1e-5
    allowed = 1.5 * (trial.reference - truth).abs().mean()
    return within and bool((output - truth).abs().mean() <= allowed)


RULES = (
    Rule(
        "flash-attention-2-kvcache",
        _FILE_2,
        "float16",
        (
            Recipe("S=128,B=2,pos=0,H=6,D=64", ragged=True),
            Recipe("S=339,B=2,pos=0,H=6,Hkv=3,D=128,block=128/256", ragged=True),
            Recipe("S=799,B=2,pos=0,H=6,Hkv=1,D=80,Q=3,block=128/256", ragged=True),
            Recipe("S=339,B=2,pos=0,H=6,Hkv=3,D=64", ragged=True, window=True),
            Recipe("S=1024,B=2,pos=0,H=6,Hkv=3,D=32,Q=3,score=alibi", ragged=True, slopes=0.3),
            Recipe("S=339,B=2,pos=0,H=6,Hkv=3,D=59,mask=document:113", ragged=True),
        ),
        _accepts_2,
        same_dtype,
    ),
    Rule(
        "flash-attention-3-kvcache",
        _FILE_3,
        "bfloat16",
        (
            Recipe("S=128,B=5,pos=0,H=6,D=128", ragged=True),
            Recipe("S=339,B=5,pos=0,H=6,Hkv=3,D=128", ragged=True),
            Recipe("S=799,B=5,pos=0,H=6,Hkv=1,D=128,Q=3", ragged=True),
            Recipe("S=339,B=5,pos=0,H=6,Hkv=3,D=128", ragged=True, window=True),
            Recipe("S=339,B=5,pos=0,H=6,Hkv=3,D=128,mask=document:113", ragged=True),
        ),
        _accepts_3,
        same_dtype,
    ),
)
