"""What a worker process costs: the same cases in a worker and in this process, in turn."""

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.case import DecodeCase
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.function.worker import Worker
from harness.verdict import Verdict

TARGET = f"{Path(__file__).parents[1] / 'tests' / 'support' / 'targets.py'}:base"
SMALLEST = DecodeCase(cache_len=1, input_pos=(0,), head_dim=16)
PAIRS = 400


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def seconds(runner: Any) -> float:
    """One example of the smallest geometry."""
    start = time.perf_counter()
    assert runner.run(SMALLEST).verdict is Verdict.OK
    return time.perf_counter() - start


def test_isolation(benchmark: Any) -> None:
    """Judge the smallest case in a worker; the ratio of medians to in-process, runs alternating."""
    benchmark.group = "one example of the smallest geometry"
    spec = TargetSpec(TARGET)
    here = LocalRunner(spec)
    count = 1 if benchmark.disabled else PAIRS
    with Worker(spec, timeout=60.0) as worker:
        pairs = [(seconds(worker), seconds(here)) for _ in range(count)][count // 10 :]
        isolated, inside = (statistics.median(column) for column in zip(*pairs, strict=True))
        benchmark.extra_info["worker over in-process"] = round(isolated / inside, 3)
        benchmark.pedantic(worker.run, args=(SMALLEST,), rounds=40, warmup_rounds=3)
    print(f"\nisolated {isolated * 1e3:.2f} ms, in-process {inside * 1e3:.2f} ms")
    print(f"ratio of medians {isolated / inside:.3f}")
