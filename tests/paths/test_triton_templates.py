"""A changed text of torch's Triton templates is seen: proof that the judging of their kernels can
fail.
"""

from __future__ import annotations

import pytest

from tests.support.interpreting import Interpreting, triton

pytestmark = pytest.mark.interprets

# The first sequence is the shorter one, so that its table does not do for the others.
DECODING = "S=200,pos=60/197,H=4,Hkv=2,D=16,seed=1"
GENERAL = "S=200,pos=60/197/-1,H=3,Hkv=1,D=16"
CHANGES = {
    "the mask is not applied": (
        DECODING,
        'tl.where(mask_mod_output, post_mod_scores, float("-inf"))',
        "post_mod_scores",
    ),
    "slots past the end are attended": (DECODING, "offs_n < KV_LEN", "offs_n >= 0"),
    "the accumulator is not rescaled": (DECODING, "acc = acc * alpha[:, None]", "acc = acc"),
    "the sum is not rescaled": (DECODING, "l_i = l_i * alpha + ", "l_i = l_i + "),
    "the scale is 1 % off": (DECODING, "qk *= SM_SCALE", "qk *= SM_SCALE * 1.01"),
    "the base of the exponent is not changed": (DECODING, "post_mod_scores *= RCP_LN2", "pass"),
    "a split ends a tile early": (
        DECODING,
        "block_n_end = block_n_start + TILE_KV_MULTIPLE ",
        "block_n_end = block_n_start + TILE_KV_MULTIPLE - 1 ",
    ),
    "splits of full blocks start a tile late": (
        DECODING,
        "(SPLIT_KV - off_t - 1) * TILE_KV_MULTIPLE",
        "(SPLIT_KV - off_t) * TILE_KV_MULTIPLE",
    ),
    "a KV head is found by another stride": (
        DECODING,
        "off_hkv * stride_kh",
        "off_hkv * stride_kn",
    ),
    "each sequence gets the first one's number of blocks": (
        DECODING,
        "sparse_block_zhm_offset = sparse_idx_z * stride_block_z",
        "sparse_block_zhm_offset = 0 * stride_block_z",
    ),
    "heads of a group are stored in reverse": (
        DECODING,
        "idx_hq = off_hkv*G + off_g[:, None, None]",
        "idx_hq = off_hkv*G + G - 1 - off_g[:, None, None]",
    ),
    "a split's maximum is off": (DECODING, "tl.store(m_ptrs, m_i", "tl.store(m_ptrs, m_i + 1"),
    "a query head reads another group": (
        GENERAL,
        "off_hkv = off_hq // GQA_SHARED_HEADS",
        "off_hkv = off_hq % GQA_SHARED_HEADS",
    ),
    "the next block is jumped to too late": (
        GENERAL,
        "needs_jump = (loop_iter + 1) % SPARSE_BLOCK_MULTIPLE == 0",
        "needs_jump = (loop_iter + 1) % SPARSE_BLOCK_MULTIPLE == 1",
    ),
    "a row without a slot is divided by 0": (GENERAL, "l_i = tl.where(l_i == 0.0, 1, l_i)", "pass"),
    "block counts are read without the sequence": (
        GENERAL,
        "sparse_hz_offset = sparse_idx_z * SPARSE_HQ",
        "sparse_hz_offset = 0 * SPARSE_HQ",
    ),
    "the sum of weights is 1 too many": (
        GENERAL,
        "acc = acc / l_i[:, None]",
        "acc = acc / (l_i[:, None] + 1)",
    ),
}


def test_a_change_of_the_template_alone_is_red_by_the_first_thing_that_a_gate_compiles(
    interpreting: Interpreting,
) -> None:
    """No eager case and no C++ kernel can show it."""
    _, before, after = CHANGES["the mask is not applied"]
    assert interpreting.run("gate_failures", "flex_decoding", before, before) == []
    [verdict] = interpreting.run("gate_failures", "flex_decoding", before, after)
    assert verdict in ("WRONG", "LEAK")


@pytest.mark.rotates(4)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_template_is_caught(interpreting: Interpreting, change: str) -> None:
    """Each planted defect gives a verdict other than OK, and without it the case is OK."""
    text, before, after = CHANGES[change]
    template = "flex_decoding" if text == DECODING else "flex_attention"
    # create_block_mask lists no block of a single token as full; the fixed path does.
    path = "fixed" if "full" in change else "full-cache"
    assert interpreting.judge(path, triton(text))["verdict"] == "OK"
    answer = interpreting.judge(path, triton(text), (template, before, after))
    assert answer["verdict"] in ("WRONG", "LEAK", "NONFINITE", "NONDETERMINISTIC"), answer
