"""Step time and set-up cost of the fixed path against what it replaces; ratios within one run.

Run alone: ``tox run -e bench``. Nothing is asserted on absolute times.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from harness.decoding.attention import decode_attention, decode_block_mask
from harness.paths.compile import Compiled

HEADS, HEAD_DIM, CACHE_LEN, DTYPE = 32, 128, 2048, torch.bfloat16
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread_without_grad() -> Iterator[None]:
    torch._dynamo.reset()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield


def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The plain mask_mod: both indices are positions."""
    return q >= k


def fixed(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Any:
    """The fixed path."""
    return decode_attention(query, key, value, input_pos)


def sliced_sdpa(query: Tensor, key: Tensor, value: Tensor, end: int) -> Tensor:
    """SDPA over the valid prefix: a new shape at every step."""
    return scaled_dot_product_attention(query, key[:, :, :end], value[:, :, :end])


def masked_sdpa(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Tensor:
    """SDPA over the whole cache, with a bool mask."""
    mask = torch.arange(CACHE_LEN) <= input_pos[:, None, None, None]
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def row_of_square() -> Callable[..., Any]:
    """gpt-fast's recipe: a square block mask once, and one row of its blocks per step."""
    square = set_up("square", CACHE_LEN)

    def step(query: Tensor, key: Tensor, value: Tensor, input_pos: Tensor) -> Any:
        mask = square[:, :, input_pos // 128]
        mask.mask_mod = lambda b, h, q, k: causal(b, h, q + input_pos[0], k)
        mask.seq_lengths = (1, CACHE_LEN)
        return flex_attention(query, key, value, block_mask=mask)

    return step


def step_of(path: str, position: int, backend: str) -> Callable[[], Any]:
    """A call without arguments that does one step."""
    g = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, HEADS, n, HEAD_DIM, generator=g).to(DTYPE) for n in (1, CACHE_LEN, CACHE_LEN)
    )
    input_pos = torch.tensor([position])
    if path == "sliced-sdpa":
        return lambda: sliced_sdpa(query, key, value, position + 1)
    if path == "masked-sdpa":
        return lambda: masked_sdpa(query, key, value, input_pos)
    function = fixed if path == "fixed" else row_of_square()
    run = Compiled(function, dynamic=False, backend=backend)
    return lambda: run(query, key, value, input_pos)


@pytest.mark.parametrize("position", [99, 1023, 2047])
@pytest.mark.parametrize("path", ["fixed", "sliced-sdpa", "masked-sdpa", "gpt-fast"])
def test_step_time(benchmark: Any, path: str, position: int) -> None:
    """One token at a position of a 2048 cache, block mask included; compare within the group."""
    benchmark.group = f"step at position {position} of {CACHE_LEN}"
    # Where nothing is measured dynamo traces all the same, and no kernel is compiled.
    step = step_of(path, position, "eager" if benchmark.disabled else "inductor")
    benchmark.extra_info["shape"] = f"bf16 H={HEADS} D={HEAD_DIM} S={CACHE_LEN}, 1 thread"
    benchmark.pedantic(step, rounds=40, iterations=3, warmup_rounds=3)


def set_up(name: str, cache_len: int) -> Any:
    """The block mask of a query at the end of the cache, or of all queries for ``square``."""
    if name == "decode_block_mask":
        return decode_block_mask(torch.tensor([cache_len - 1]), cache_len=cache_len)
    if name == "square":
        return create_block_mask(causal, 1, 1, cache_len, cache_len, device="cpu")

    def last_row(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q + cache_len - 1 >= k

    return create_block_mask(last_row, 1, 1, 1, cache_len, device="cpu")


# ru_maxrss never falls, so each measurement needs a process, a fork of one that has imported torch;
# the small mask first is a warm-up.
MEMORY = """
import json, os, resource, sys
import torch
from test_step_time import set_up
torch.set_num_threads(1)
set_up("square", 256)
for name, cache_len in json.loads(sys.argv[1]):
    if os.fork() == 0:
        set_up(name, 256)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        set_up(name, cache_len)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


# Not the square mask of 131072 slots: it would take 16 GiB and more.
SET_UPS = [
    *itertools.product(["decode_block_mask", "one-row"], [2048, 16384, 131072]),
    *itertools.product(["square"], [2048, 16384]),
]


def slots_of(cache_len: int, benchmark_disabled: bool) -> int:
    """The slots of a cache, fewer where nothing is measured."""
    return cache_len // 16 if benchmark_disabled else cache_len


@pytest.fixture(scope="module")
def memory(request: pytest.FixtureRequest) -> dict[tuple[str, int], int]:
    """By how many KiB each block mask raised the peak resident memory."""
    disabled = request.config.getoption("benchmark_disable")
    wanted = [(name, slots_of(cache_len, disabled)) for name, cache_len in SET_UPS]
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))
    child = subprocess.run(
        [sys.executable, "-c", MEMORY, json.dumps(wanted)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": folders},
    )
    return dict(zip(SET_UPS, map(int, child.stdout.split()), strict=True))


@pytest.mark.parametrize(("name", "cache_len"), SET_UPS)
def test_set_up(
    benchmark: Any, name: str, cache_len: int, memory: dict[tuple[str, int], int]
) -> None:
    """Eager time of one block mask, and by how many KiB it raised the peak resident memory."""
    benchmark.group = f"block mask for {cache_len} slots"
    benchmark.extra_info["peak_memory_kib"] = memory[name, cache_len]
    slots = slots_of(cache_len, benchmark.disabled)
    rounds, warm_up = (2, 0) if name == "square" else (30, 3)
    benchmark.pedantic(set_up, args=(name, slots), rounds=rounds, warmup_rounds=warm_up)
