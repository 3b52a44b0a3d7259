"""PyTorch's test of FlexAttention decoding.

Read in pytorch/pytorch, ``test/inductor/test_flex_decoding.py``, ``_check_equal`` and
``_check_out``: golden is eager FlexAttention in float64, the reference the same in the tested
dtype. Where the reference's mean error is below 1e-4 of golden's mean magnitude, as it always is in
float32, atol = rtol = 0.2 decide; else the mean error may be 1.1 times the reference's (10 times
in float32). On CPU the file tests float32, and bfloat16 where oneDNN has it.

Its geometries are one query token, S = 2048, D = 64, B = 4, heads (16, 8), (16, 1), (8, 2) or
(16, 16), all values standard normal. Of its score_mods these are here: ``_identity``, so a full
cache; ``_generate_windowed(1000)``, the one that decodes at a position (q + 1000 >= kv), with the
Dv = 32 of ``test_non_equal_head_dims``; and ``_generate_alibi_bias(8)`` over a full cache.
"""

from __future__ import annotations

from torch import Tensor

from harness.inputs import Inputs
from harness.paths import PATHS
from tests.rivals.rule import Recipe, Rule, Trial, close

_SOURCE = "pytorch/pytorch test/inductor/test_flex_decoding.py _check_equal"
_RECIPES = (
    Recipe("S=2048,B=4,pos=2047,H=8,Hkv=2"),
    Recipe("S=2048,B=4,pos=1000,H=16,Hkv=8,Dv=32"),
    Recipe("S=2048,B=4,pos=2047,H=8,score=alibi"),
)


def eager_flex(inputs: Inputs) -> Tensor:
    """Eager FlexAttention in the inputs' dtype."""
    return PATHS["full-cache"](inputs).output


def _accepts(output: Tensor, trial: Trial) -> bool:
    error = (trial.golden - output).abs().mean()
    reference_error = (trial.golden - trial.reference).abs().mean()
    if error.isnan():
        return False
    if reference_error < 1e-4 * trial.golden.abs().mean():
        return close(output, trial.golden.to(output.dtype), atol=0.2, rtol=0.2)
    factor = 10.0 if "32" in trial.inputs.case.dtype else 1.1
    return bool(error <= reference_error * factor)


RULES = tuple(
    Rule(
        f"pytorch-flex-decoding-{short}",
        _SOURCE,
        dtype,
        _RECIPES,
        _accepts,
        eager_flex,
    )
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
)
