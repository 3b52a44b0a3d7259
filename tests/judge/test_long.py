"""Long contexts: memory beside the inputs is bounded, and work grows with the cache's length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.case import DecodeCase
from harness.paths import PATHS
from harness.script.function_script import target_script
from harness.verdict import Problem, Verdict, handing, judge
from tests.support import ROOT
from tests.support.processes import Preloaded

# The query attends all but some slots, so that golden streams the whole cache.
LONG = "S=65536,pos=65500,H=8,D=64,dtype=bf16,tail=poison"
SCRIPT = """
import gc
import sys

import torch

from harness.case import DecodeCase
from harness.paths import PATHS
from harness.verdict import Problem, judge

torch.set_num_threads(1)
case, path = DecodeCase.from_text(sys.argv[1]), PATHS["sdpa-sliced"]


def memory(line):
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith(line)) * 2**10


judge(path, Problem.of(case.replace(cache_len=128, input_pos=(92,))))
gc.collect()
before = memory("VmRSS")
problem = Problem.of(case)
assert judge(path, problem).verdict.passes
inputs = sum(x.nbytes for x in problem.inputs.tensors.values())
print((memory("VmHWM") - before) / inputs)
"""

# Measures the standalone script that it is given.
MEASURE = """
import runpy
import sys


def memory(line):
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith(line)) * 2**10


before, status = memory("VmRSS"), 0
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
except SystemExit as exit:
    status = int(exit.code)
print(memory("VmHWM") - before)
sys.exit(status)
"""

MINE = """
import torch


def sound(query, key, value, pos):
    group = query.size(1) // key.size(1)
    t = pos.view(-1, 1, 1, 1) + torch.arange(query.size(2)).view(-1, 1)
    seen = (torch.arange(key.size(2)) <= t) & (pos.view(-1, 1, 1, 1) >= 0)
    key, value = (x.repeat_interleave(group, 1) for x in (key, value))
    score = (query @ key.mT).nan_to_num() * query.size(3) ** -0.5
    weights = score.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    return weights @ value.nan_to_num()


def off(*tensors):
    return 1.01 * sound(*tensors)
"""


def test_judging_needs_less_than_a_copy_of_large_inputs(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    """Making 128 MiB of inputs, golden, the budget and all runs, with what the path takes."""
    script = tmp_path / "long.py"
    script.write_text(SCRIPT)
    done = preloaded.run(script, LONG, folder=tmp_path, path=[ROOT])
    assert done.returncode == 0, done.stderr
    assert 1 <= float(done.stdout) < 2


class Elements(TorchDispatchMode):
    """Counts the elements of all tensors that torch's operations are given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        # A view reads nothing.
        if not func.is_view:
            self.count += sum(x.numel() for x in given)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_place", [0, 2**40])
@pytest.mark.parametrize("text", ["H=2,D=16", "H=4,Hkv=1,D=16,mask=sinks:512:4,score=alibi"])
def test_work_grows_as_the_cache(text: str, in_place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the slots add twice the elements, where a square would add four times as many."""
    monkeypatch.setattr(handing, "IN_PLACE_BYTES", in_place)
    counts = []
    for slots in (2**13, 2**14, 2**15):
        case = DecodeCase.from_text(f"S={slots},pos={slots - 100},{text},tail=poison")
        with Elements() as elements:
            judge(PATHS["sdpa-full"], Problem.of(case))
        counts.append(elements.count)
    assert counts[2] - counts[1] == pytest.approx(2 * (counts[1] - counts[0]), rel=0.1)


def test_a_script_of_a_long_context_needs_the_inputs_and_a_gigabyte(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    """Keys and values in float64, repeated for all query heads, would take 2 GiB at once."""
    case = DecodeCase.from_text("S=65536,pos=65500,H=32,Hkv=4,D=64,dtype=bf16")
    script, measure = tmp_path / "show.py", tmp_path / "measure.py"
    mine = tmp_path / "mine.py"
    mine.write_text("def decode(query, *others):\n    return 0 * query\n")
    script.write_text(target_script(f"{mine}:decode", case, "cpu", Verdict.WRONG))
    measure.write_text(MEASURE)
    done = preloaded.run(measure, script, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    inputs = sum(x.nbytes for x in Problem.of(case).inputs.tensors.values())
    assert int(done.stdout.splitlines()[-1]) < inputs + 2**30


@pytest.mark.parametrize("elements", [0, 2**40])
def test_scripts_of_long_and_short_contexts_agree(
    elements: int, preloaded: Preloaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head by head or at once: a sound function is OK, one that is off is not."""
    monkeypatch.setattr("harness.script.oracle.ELEMENTS", elements)
    mine, script = tmp_path / "mine.py", tmp_path / "show.py"
    mine.write_text(MINE)
    for text in ("pos=30,H=2,tail=poison", "pos=20/-1/37,H=6,Hkv=2,Q=3,Dv=24"):
        case = DecodeCase.from_text(f"S=40,D=16,{text}")
        for name, status in {"sound": 0, "off": 1}.items():
            script.write_text(target_script(f"{mine}:{name}", case, "cpu"))
            done = preloaded.run(script, folder=tmp_path)
            assert done.returncode == status, done.stderr
