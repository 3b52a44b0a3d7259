"""Rules of serving engines and of their kernel libraries.

FlashInfer, flashinfer-ai/flashinfer ``tests/attention/test_batch_decode_kernels.py``: fp16, each
sequence of a paged batch decode against its single decode kernel, rtol = atol = 1e-3. Batches of
12, 17, 128; one length for all of 54, 97, 512, ...; 4 KV heads, 4 or 32 query heads, D = 128, pages
of 1, 8 or 16, standard normal. Batch 12 here, and 4 where the cache is long.

vLLM, vllm-project/vllm ``tests/v1/attention/test_attention_backends.py``: bf16, against eager
FlexAttention per sequence, rtol = atol = 1e-2, and no NaN. Llama 3 8B (32 and 8 heads, D = 128),
also cut in 2 or 4 as by tensor parallelism; lengths 32/40, 128/256/512/1024 twice, 2048, ...;
one query token, or 8 in ``small_prefill``; pages of 16 in a zeroed cache. The window of 2047 is
Phi-tiny-MoE's; its batch of 32 is cut to 2 here.

llama.cpp, ggml-org/llama.cpp ``tests/test-backend-ops.cpp`` ``test_flash_attn_ext``: normalised
mean square error to another backend at most 5e-4; uniform values in [-1, 1), float16 cache. Head
sizes 64 and 128, caches of 113, 512, 1024, 4 heads or 4 groups of 4, 1 or 3 query tokens, softcap
10, ALiBi of max_bias 8. Its mask hides random runs of slots; here it hides those after a position.
"""

from __future__ import annotations

from torch import Tensor

from tests.rivals.pytorch import eager_flex
from tests.rivals.rule import Recipe, Rule, Trial, close


def _flashinfer(output: Tensor, trial: Trial) -> bool:
    return close(output, trial.reference, rtol=1e-3, atol=1e-3)


def _vllm(output: Tensor, trial: Trial) -> bool:
    finite = bool(output.isfinite().all())
    return finite and close(output, trial.reference, rtol=1e-2, atol=1e-2)


def normalised_mean_square_error(output: Tensor, truth: Tensor) -> float:
    """Sum of squared differences over the sum of squares of the truth."""
    return ((output.double() - truth) ** 2).sum().item() / (truth**2).sum().item()


def _llama(output: Tensor, trial: Trial) -> bool:
    return normalised_mean_square_error(output, trial.golden) <= 5e-4


RULES = (
    Rule(
        "flashinfer-batch-decode",
        "flashinfer-ai/flashinfer tests/attention/test_batch_decode_kernels.py",
        "float16",
        (
            Recipe("S=64,B=12,pos=53,H=32,Hkv=4,D=128,block=128/16"),
            Recipe("S=112,B=12,pos=96,H=32,Hkv=4,D=128,block=128/16"),
            Recipe("S=512,B=12,pos=511,H=4,D=128,block=128/16"),
            Recipe("S=2048,B=4,pos=2047,H=4,D=128,block=128/16"),
        ),
        _flashinfer,
    ),
    Rule(
        "vllm-v1-backends",
        "vllm-project/vllm tests/v1/attention/test_attention_backends.py",
        "bfloat16",
        (
            Recipe("S=48,pos=31/39,H=32,Hkv=8,D=128,block=128/16", empty_tail=True),
            Recipe("S=48,pos=24/32,H=32,Hkv=8,D=128,Q=8,block=128/16", empty_tail=True),
            Recipe(
                "S=1024,pos=127/255/511/1023/127/255/511/1023,H=8,Hkv=2,D=128,block=128/16",
                empty_tail=True,
            ),
            Recipe(
                "S=2048,pos=2047/2047,H=8,Hkv=2,D=128,mask=window:2047,block=128/16",
                empty_tail=True,
            ),
        ),
        _vllm,
        eager_flex,
    ),
    Rule(
        "llama.cpp-flash-attn-ext",
        "ggml-org/llama.cpp tests/test-backend-ops.cpp test_flash_attn_ext",
        "float16",
        (
            Recipe("S=512,pos=400,H=16,Hkv=4,D=128,score=softcap:10", uniform=True),
            Recipe("S=113,B=3,pos=90,H=4,D=64,Q=3", uniform=True),
            Recipe("S=1024,pos=1000,H=4,D=64,score=alibi", uniform=True),
        ),
        _llama,
    ),
)
