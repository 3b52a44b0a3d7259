"""torch's Triton kernels in the interpreter: right on the compiled pool, and seen to be wrong where
their text is changed.

Each test asks a process of its own, since Triton decides when it is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness import cli
from harness.case import DecodeCase
from harness.interpreter import gpu
from harness.paths import PATHS
from harness.strategies.paths import decode_data, sampled_cases
from harness.verdict import judgeable
from tests.support.geometries import POOL
from tests.support.interpreting import Interpreting

pytestmark = pytest.mark.interprets
FLEX = ("full-cache", "fixed", "fixed-packed")
NIGHTLY = settings().max_examples > 1000

# Both kernels, with and without a reduction after splits; ragged and idle, chunks, groups of 1, 3,
# 4 and 8; a block table made outside (full-cache) and inside (fixed) the compiled function.
FURTHER = [
    "S=200,pos=197/60/-1,H=3,Hkv=1,D=16",
    "S=200,pos=150/-1,H=4,Hkv=1,D=16,Q=3,dtype=fp16",
    "S=200,pos=120/3,H=8,Hkv=1,D=16,dtype=bf16,score=sink",
    "S=160,pos=-1,H=2,D=16",
    "S=100,pos=20,H=4,Hkv=1,D=16,Q=40",
    "S=200,pos=150/60,H=3,Hkv=1,D=16,block=16",
    "S=200,pos=150/60/-1,H=6,Hkv=2,D=16,dynamic=yes",
    "S=200,pos=150/60/20,H=4,Hkv=2,D=16,Q=3,dynamic=yes",
]
# What torch refuses to compile for a GPU as well, with the reason that it gives.
REFUSED = {
    "S=513,pos=0,H=4,Hkv=1,Q=16,D=17,dtype=bf16,block=32,mask=prefix:70,layout=stepped": "No",
    "S=100,pos=20,H=4,Hkv=1,D=16,Q=40": "No choices",
    "S=200,pos=150/60,H=3,Hkv=1,D=16,block=16": "must be divisible by BLOCK_M",
}


def triton(text: str) -> DecodeCase:
    return DecodeCase.from_text(f"{text},mode=compiled,kernels=triton")


REFUSALS = {triton(text).geometry: reason for text, reason in REFUSED.items()}
# Two of the slowest in the interpreter.
PACKED_BY_NIGHT = {
    case.replace(kernels="triton").geometry for case in POOL if case.cache_len in (513, 700)
}


def runs(cases: list[DecodeCase]) -> list[object]:
    """Each case on each path that takes it."""
    return [
        pytest.param(path, case, id=f"{path}-{case}")
        for case in cases
        for path in FLEX
        if NIGHTLY or path != "fixed-packed" or case.geometry not in PACKED_BY_NIGHT
        if PATHS[path].refuses(case) is None and min(case.head_dim, case.value_dim) >= 16
    ]


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Interpreting]:
    """One process for the module."""
    running = Interpreting()
    yield running
    running.close()


def holds(interpreting: Interpreting, path: str, case: DecodeCase) -> None:
    """OK in one graph; or refused by torch on the full cache, for the reason that it has."""
    answer = interpreting.judge(path, case)
    if path == "full-cache" and case.geometry in REFUSALS:
        assert REFUSALS[case.geometry] in answer["evidence"][0]
        return
    assert answer["verdict"] == "OK", answer
    assert answer["graphs"] == 1
    assert len(answer["kernels"]) == 1
    assert answer["logsumexp"]


@pytest.mark.parametrize(("path", "geometry"), runs([c.replace(kernels="triton") for c in POOL]))
def test_a_path_is_ok_on_the_compiled_pool(
    interpreting: Interpreting, path: str, geometry: DecodeCase
) -> None:
    """Positions and values are drawn, the same in every run; more of them at night."""
    drawn = sampled_cases(20, str(geometry), decode_data(geometry))
    taken = [
        problem.case for problem in judgeable(drawn) if PATHS[path].refuses(problem.case) is None
    ]
    for case in taken[-10 if NIGHTLY else -1 :]:
        holds(interpreting, path, case)


@pytest.mark.parametrize(("path", "case"), runs([triton(text) for text in FURTHER]))
def test_a_path_is_ok_on_what_the_kernels_tell_apart(
    interpreting: Interpreting, path: str, case: DecodeCase
) -> None:
    """Fixed paths take everything; what torch refuses on the full cache it refuses on a GPU."""
    holds(interpreting, path, case)


@pytest.mark.parametrize(
    ("text", "kernel"),
    [
        ("S=100,pos=50,H=2,D=16", "flex_decoding 16x64 in 4 splits"),
        ("S=100,B=4,pos=50,D=16", "flex_decoding 16x64 in 2 splits"),
        ("S=100,pos=50,H=3,Hkv=1,D=16", "flex_attention 64x64"),
        ("S=130,pos=0,H=1,D=16,Q=128", "flex_attention 64x64"),
    ],
)
def test_which_kernel_ran_is_recorded(interpreting: Interpreting, text: str, kernel: str) -> None:
    """The template, its tile, and the number of splits."""
    answer = interpreting.judge("full-cache", triton(text))
    assert answer["verdict"] == "OK", answer
    assert answer["kernels"] == [kernel]


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


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_template_is_caught(interpreting: Interpreting, change: str) -> None:
    """Each planted defect gives a verdict other than OK, and without it the case is OK."""
    text, before, after = CHANGES[change]
    template = "flex_decoding" if text == DECODING else "flex_attention"
    # create_block_mask lists no block of a single token as full; the fixed path does.
    path = "fixed" if "full" in change else "full-cache"
    assert interpreting.judge(path, triton(text))["verdict"] == "OK"
    answer = interpreting.judge(path, triton(text), (template, before, after))
    assert answer["verdict"] in ("WRONG", "LEAK", "NONFINITE"), answer


def test_bfloat16_is_converted_as_torch_does(interpreting: Interpreting) -> None:
    """All 65536 numbers widened, and the ties between them and their neighbours rounded."""
    assert interpreting.run("bfloat16") == {"widened": True, "rounded": True}


def test_numbers_of_16_bits_are_rounded_after_each_operation(interpreting: Interpreting) -> None:
    """As torch rounds them; a sum after each addition."""
    assert interpreting.run("numbers_of_16_bits") == {"bfloat16": True, "float16": True}


def test_torch_is_as_it_was_afterwards(interpreting: Interpreting) -> None:
    """C++ kernels can be compiled in the same process."""
    assert interpreting.run("untouched")


def test_a_process_that_was_not_started_for_it_says_so() -> None:
    """UNSUPPORTED, with the remedy, where Triton does not interpret."""
    case = triton("S=100,pos=50,D=16")
    assert "--kernels triton" in (PATHS["fixed"].unsupported(case, "cpu") or "")


@pytest.mark.parametrize(
    ("package", "known"), [("KNOWN_TORCH", "torch"), ("KNOWN_TRITON", "triton")]
)
def test_an_unknown_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, package: str, known: str
) -> None:
    """No verdict on kernels that no GPU would run."""
    monkeypatch.setattr(gpu, package, ("0.0.1",))
    assert f"changes {known} 0.0.1" in (gpu.missing() or "")


def test_the_command_starts_a_process_that_interprets(tmp_path: Path) -> None:
    """Exit code 0, and the JSON says which kernels ran."""
    file = tmp_path / "answer.json"
    arguments = ["repro", "--kernels", "triton", "--multiprocessors", "2", "--json", str(file)]
    assert cli.main([*arguments, "S=40,pos=30,H=2,D=16"]) == cli.OK
    ran = {path["path"]: path["kernels"] for path in json.loads(file.read_text())["paths"]}
    assert ran["full-cache"] == ran["fixed"] == ["flex_decoding 16x64 in 2 splits"]
    assert ran["sdpa-full"] == []


def test_a_script_that_needs_torch_alone_cannot_interpret(tmp_path: Path) -> None:
    """A usage error, before any work."""
    arguments = ["repro", "--kernels", "triton", "--script", str(tmp_path / "a.py")]
    assert cli.main([*arguments, "S=40,pos=30,H=2,D=16"]) == cli.USAGE
