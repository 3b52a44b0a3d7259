"""``torch.testing.assert_close`` with its defaults, on decode calls like gpt-fast#233.

The defaults (torch's documentation of ``assert_close``): rtol 1.3e-6 in float32, 1.6e-2 in bf16,
1e-3 in fp16, atol 1e-5. Compared with golden rounded to the dtype, not with another same-dtype
implementation: between two of those the defaults already fail on elements near 0.
"""

from __future__ import annotations

from torch import Tensor

from tests.rivals.rule import Recipe, Rule, Trial, close


def _accepts(output: Tensor, trial: Trial) -> bool:
    return close(output, trial.golden.to(output.dtype))


RULES = tuple(
    Rule(
        f"torch-assert-close-{short}",
        "torch.testing.assert_close, default tolerances",
        dtype,
        (
            Recipe("S=2048,pos=99,H=8,D=64"),
            Recipe("S=2048,pos=1500/99,H=8,Hkv=2,D=64,Q=3"),
        ),
        _accepts,
    )
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"))
)
