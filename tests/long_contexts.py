"""``python -m tests.long_contexts [CASE ...]``: memory and time of judging large cases.

Each case is judged on ``sdpa-sliced`` in its own process. Printed are the size of its inputs,
the peak of memory beside them, the path's own included, and the CPU time from drawing the inputs to
the verdict, also in units of three calls of the path and one float64 SDPA, a KV head at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from harness.case import DecodeCase
from harness.inputs import Inputs
from harness.paths import PATHS
from harness.verdict import Problem, judge

ROOT = Path(__file__).parents[1]
CASES = (
    "S=16384,pos=16284,H=32,D=128,dtype=bf16,tail=poison",
    "S=32768,pos=32668,H=32,D=128,dtype=bf16,tail=poison",
    "S=65536,pos=65436,H=32,D=128,dtype=bf16,tail=poison",
    "S=131072,pos=130972,H=32,D=128,dtype=bf16,tail=poison",
    "S=131072,pos=130972,H=32,Hkv=8,D=128,dtype=bf16,tail=poison",
    "S=1048576,pos=1048476,H=8,Hkv=1,D=64,dtype=bf16,tail=poison",
)


def main(names: list[str]) -> int:
    """Print a row for each case; the exit code is that of the first process that fails, or 0."""
    if len(names) == 1:
        print(row(DecodeCase.from_text(names[0])), flush=True)
        return 0
    print("| case | inputs | peak beside | CPU s | ratio |\n|---|---|---|---|---|", flush=True)
    for name in names or CASES:
        command = [sys.executable, "-m", "tests.long_contexts", name]
        if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
            return code
    return 0


def row(case: DecodeCase) -> str:
    """A row of the table, Markdown."""
    path = PATHS["sdpa-sliced"]
    judge(path, Problem.of(DecodeCase.from_text("S=128,pos=92,D=64,dtype=bf16")))
    before, start = _status("VmRSS"), _seconds()
    problem = Problem.of(case)
    verdict = judge(path, problem).verdict
    spent, peak = _seconds() - start, _status("VmHWM") - before
    size = sum(tensor.nbytes for tensor in problem.inputs.tensors.values()) / 2**30
    start = _seconds()
    path(problem.inputs)
    call = _seconds() - start
    ratio = spent / (3 * call + _exact(problem.inputs))
    beside = f"{peak - size:.2f} GiB | {spent:.1f} | {ratio:.2f}"
    return f"| `{case}`: {verdict} | {size:.2f} GiB | {beside} |"


def _exact(inputs: Inputs) -> float:
    """CPU seconds of SDPA in float64, one KV head at a time."""
    case, start = inputs.case, _seconds()
    group, filled = case.heads // case.kv_heads, case.input_pos[0] + case.q_len
    for h in range(case.kv_heads):
        F.scaled_dot_product_attention(
            inputs.query[:, h * group : (h + 1) * group].double(),
            inputs.key_cache[:, h : h + 1, :filled].double(),
            inputs.value_cache[:, h : h + 1, :filled].double(),
            enable_gqa=True,
        )
    return _seconds() - start


def _seconds() -> float:
    times = os.times()
    return times.user + times.system


def _status(key: str) -> float:
    """A figure of this process, in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**20


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main(sys.argv[1:]))
