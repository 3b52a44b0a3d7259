"""Times of contenders, by turns in one run, so that a noisy machine is noisy to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.benching.contenders import Contender, Step, contenders

# One measurement takes at least so long, and each contender gets so many.
_LEAST_SECONDS = 2e-3
_ROUNDS = 21

STEPS: tuple[Step, ...] = (
    *(Step("bfloat16", 1, 32, 32, 128, 2048, p) for p in (99, 511, 1023, 2047)),
    *(Step("bfloat16", 1, 32, 8, 128, 8192, p) for p in (99, 511, 4095, 8191)),
    *(Step("float32", 1, 32, 32, 128, 2048, p) for p in (99, 511, 2047)),
    *(Step("float32", 1, 32, 8, 128, 8192, p) for p in (99, 511, 8191)),
    *(Step("float32", 4, 32, 8, 128, 2048, p) for p in (99, 2047)),
    *(Step("float16", 1, 32, 8, 128, 2048, p) for p in (511, 2047)),
)
# On a GPU, up to where caches take gigabytes.
CUDA_STEPS: tuple[Step, ...] = tuple(
    Step("bfloat16", batch, 32, 8, 128, slots, slots - 1)
    for batch, slots in ((1, 2048), (8, 2048), (1, 16384), (8, 16384), (1, 131072), (4, 131072))
)


@dataclass(frozen=True)
class Times:
    """Of one step: the median seconds of each contender, and the median ratio to sliced SDPA, of
    the same round; ``refused`` are contenders that raised, with the reason."""

    step: Step
    seconds: dict[str, float]
    ratios: dict[str, float]
    refused: dict[str, str]

    def to_values(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {**vars(self), "step": {**vars(self.step), "text": str(self.step)}}


def measure(step: Step, device: str) -> Times:
    """The times of a step by all contenders."""
    calls, refused = dict[str, Contender](), dict[str, str]()
    for name, call in contenders(step, device).items():
        try:
            call()
            calls[name] = call
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    repeats = {name: _repeats(call, device) for name, call in calls.items()}
    rounds = [dict(_round(calls, repeats, device)) for _ in range(_ROUNDS)]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in calls}
    ratios = {name: statistics.median(r[name] / r["sliced SDPA"] for r in rounds) for name in calls}
    return Times(step, seconds, ratios, refused)


def _round(
    calls: Mapping[str, Contender], repeats: Mapping[str, int], device: str
) -> Iterator[tuple[str, float]]:
    for name, call in calls.items():
        call()  # The caches of the processor hold what the one before has left.
        yield name, _seconds(call, repeats[name], device)


def _seconds(call: Contender, repeats: int, device: str) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Contender, device: str) -> int:
    once = min(_seconds(call, 1, device) for _ in range(3))
    return max(1, min(1000, round(_LEAST_SECONDS / once)))
