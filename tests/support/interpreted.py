"""What runs in the process that interprets Triton kernels."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch

from harness.case import DecodeCase
from harness.interpreter import arithmetic, templates
from harness.paths import PATHS, Path
from harness.verdict import Problem, judge


def judged(path: str, case: DecodeCase) -> dict[str, Any]:
    """A path on a case."""
    return _judged(PATHS[path], case)


def judged_with(path: str, case: DecodeCase, name: str, before: str, after: str) -> dict[str, Any]:
    """A path on a case, with ``before`` in the text of a template replaced."""
    # By a name of its own it is compiled anew.
    changed = dataclasses.replace(PATHS[path], name=f"{path} with {name} {before} {after}")
    with templates.rewritten(name, lambda text: text.replace(before, after)):
        return _judged(changed, case)


def _judged(path: Path, case: DecodeCase) -> dict[str, Any]:
    judgement = judge(path, Problem.of(case))
    return {
        "verdict": judgement.verdict,
        "evidence": [finding.evidence for finding in judgement.findings],
        "kernels": [str(ran) for ran in path.kernels(case)],
        "graphs": path.graphs(case),
        "logsumexp": judgement.logsumexp_error is not None,
    }


def bfloat16() -> dict[str, bool]:
    """Whether the conversions between float32 and bfloat16 are torch's, bit by bit: all bfloat16
    numbers widened, and every kind of tie and neighbour of them rounded."""
    every = np.arange(2**16, dtype=np.uint16)
    wide = torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).float()
    widened = torch.from_numpy(arithmetic.widened(every).copy())
    bits = (every.astype(np.uint32)[:, None] << np.uint32(16)) + np.array(
        [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32
    )
    numbers = torch.from_numpy(bits.view(np.float32).copy())
    rounded = torch.from_numpy(arithmetic.rounded(bits.view(np.float32)).view(np.int16))
    return {
        "widened": torch.equal(wide.nan_to_num(7), widened.nan_to_num(7)),
        "rounded": torch.equal(
            numbers.bfloat16().float().nan_to_num(7),
            rounded.view(torch.bfloat16).float().nan_to_num(7),
        ),
    }


def numbers_of_16_bits() -> dict[str, bool]:
    """Whether a kernel's arithmetic in bfloat16 and float16 is torch's, bit by bit, with sums in a
    tree."""
    from tests.support.kernels import elementwise

    same = {"bfloat16": True, "float16": True}
    for seed, name in itertools.product(range(8), same):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(128, generator=generator).to(getattr(torch, name)) for _ in range(2))
        with arithmetic.with_narrow_floats():
            result = elementwise(x, y)
        total = x
        while len(total) > 1:
            total = total[0::2] + total[1::2]
        pairs = [x + y, x - y, x * y, x / y, torch.maximum(x, y), torch.where(x < y, -x, x.abs())]
        expected = torch.cat([*pairs, total, x.max()[None], x.min()[None]])
        same[name] &= torch.equal(result, expected)
    return same


def untouched() -> bool:
    """Whether torch is as it was after kernels were interpreted: a C++ kernel is compiled."""
    case = DecodeCase.from_text("S=40,pos=30,D=16,mode=compiled")
    judgement = judge(PATHS["full-cache"], Problem.of(case))
    return judgement.verdict.passes and not PATHS["full-cache"].kernels(case)
