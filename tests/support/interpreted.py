"""What runs in the process that interprets Triton kernels."""

from __future__ import annotations

import dataclasses
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


def untouched() -> bool:
    """Whether torch is as it was after kernels were interpreted: a C++ kernel is compiled."""
    case = DecodeCase.from_text("S=40,pos=30,D=16,mode=compiled")
    judgement = judge(PATHS["full-cache"], Problem.of(case))
    return judgement.verdict.passes and not PATHS["full-cache"].kernels(case)
