"""The table of paths, the implementations under test, by name."""

from __future__ import annotations

from harness.paths import calls, masks
from harness.paths.path import CONTRACT_CASE, Path

PATHS: dict[str, Path] = {
    path.name: path
    for path in (
        Path(
            "full-cache",
            "flex_attention over the whole buffer, mask with the query offset (gpt-fast)",
            calls.full_cache,
            calls.full_cache_refuses,
            forms=True,
        ),
        Path(
            "fixed",
            "decode_attention over the whole buffer, with a block table from the positions",
            calls.fixed,
            recipes=("fresh",),
            avoids_known_failures=True,
        ),
        Path(
            "fixed-packed",
            "the same with the GQA group packed into query rows",
            lambda inputs: calls.fixed(inputs, pack_gqa=True),
            calls.packed_refuses,
            recipes=("fresh",),
            avoids_known_failures=True,
            contract_case=CONTRACT_CASE.replace(kv_heads=1),
        ),
        Path(
            "sliced-offset",
            "flex_attention over the filled slots, mask with the query offset",
            lambda inputs: calls.sliced(inputs, masks.mask_mod(inputs)),
            calls.sliced_refuses,
            recipes=("fresh",),
            static=False,
        ),
        Path(
            "sdpa-sliced",
            "scaled_dot_product_attention over the filled slots",
            calls.sdpa_sliced,
            calls.sdpa_sliced_refuses,
            recipes=("fresh",),
            flex=False,
            static=False,
        ),
        Path(
            "sdpa-full",
            "scaled_dot_product_attention over the whole buffer, with a mask",
            calls.sdpa_full,
            calls.sdpa_refuses,
            recipes=("fresh",),
            flex=False,
        ),
        Path(
            "sliced-as-reported",
            "flex_attention over the filled slots, mask q >= kv without the offset (gpt-fast#233)",
            lambda inputs: calls.sliced(inputs, masks.causal_without_offset),
            calls.as_reported_refuses,
            recipes=("fresh",),
            static=False,
            known_wrong=True,
        ),
        Path(
            "full-cache-unmasked",
            "flex_attention over the whole buffer without a mask (what gpt-fast#233 fears)",
            lambda inputs: calls.flex_call(inputs, None),
            known_wrong=True,
        ),
    )
}
