"""What runs in the process that interprets Triton kernels."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import runpy
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers

from harness.case import DecodeCase
from harness.case.program import Program
from harness.function.declarations import Declarations
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.gate import steps
from harness.interpreter import arithmetic, kernels, templates
from harness.interpreter.overhead import without_overhead
from harness.issue233.answer import answer_report
from harness.paths import PATHS
from harness.paths import Path as DecodePath
from harness.paths.compile import Compiled, Recent
from harness.paths.interpreted import interpreting
from harness.paths.path import CONTRACT_CASE
from harness.script.function_script import target_script
from harness.serving.compiled import FixedPathCompiled, step
from harness.serving.contract import Abilities
from harness.serving.judging import judge_program
from harness.serving.session import CacheClass
from harness.verdict import Problem, Verdict, contract, judge
from tests.support import ROOT


def judged(path: str, case: DecodeCase) -> dict[str, Any]:
    """A path on a case."""
    return _judged(PATHS[path], case)


def judged_with(path: str, case: DecodeCase, name: str, before: str, after: str) -> dict[str, Any]:
    """A path on a case, with ``before`` in the text of a template replaced."""
    # As another subject it is compiled anew.
    changed = dataclasses.replace(PATHS[path], subject=object())
    with templates.rewritten(name, lambda text: text.replace(before, after)):
        return _judged(changed, case)


def _judged(path: DecodePath, case: DecodeCase) -> dict[str, Any]:
    judgement = judge(path, Problem.of(case))
    return {
        "verdict": judgement.verdict,
        "evidence": [finding.evidence for finding in judgement.findings],
        "kernels": [str(ran) for ran in path.kernels(case)],
        "graphs": path.graphs(case),
        "logsumexp": judgement.logsumexp_error is not None,
    }


def gate_failures(name: str, before: str, after: str) -> list[str]:
    """What the gate's first compiled run of the full cache fails with, ``before`` in the text of a
    template replaced, or not where both are the same; it has no time for another."""
    changed = nullcontext()
    if before != after:
        changed = templates.rewritten(name, lambda text: text.replace(before, after))
    contract = "compile contract"
    plan = {contract: steps.PLAN[contract]}
    paths = {"full-cache": PATHS["full-cache"]}
    run = steps.Gate("cpu", 0.0, 0, None, lambda text: None, isolated=False, kernels="triton")
    with (
        mock.patch.multiple(
            steps,
            PLAN=plan,
            PATHS=paths,
            COMPILED="S=200,pos=60,H=4,Hkv=2,D=16,mode=compiled",
            LEAST_OVER=3600.0,  # the one is not ended
        ),
        mock.patch("harness.paths.path._COMPILED", Recent()),
        changed,
    ):
        run.sound = list(paths.values())
        run.run()
    return [str(item.verdict) for item in run.failures]


def watched(name: str, case: str) -> list[str]:
    """What is found in a function of ``tests.support.launches`` on a case."""
    spec = TargetSpec(f"{ROOT / 'tests/support/launches.py'}:{name}", triton=True)
    if "layout" in case:
        spec = dataclasses.replace(spec, declared=Declarations(supports=("strided",)))
    outcome = LocalRunner(spec).run(DecodeCase.from_text(case))
    return [f"{finding.verdict}: {finding.evidence}" for finding in outcome.findings]


def served(program: str) -> dict[str, Any]:
    """The fixed path, compiled to Triton kernels, on a program: the verdict, what was found, how
    many rows were judged, in how many graphs, and which kernels were generated."""
    ran: list[templates.Ran] = []

    class Interpreted(FixedPathCompiled):
        graph = Compiled(step, dynamic=False, within=functools.partial(interpreting, ran))

    cache = CacheClass(Interpreted, Abilities.of(Interpreted))
    judged = judge_program(cache, Program.from_text(program))
    return {
        "verdict": judged.verdict,
        "evidence": [finding.evidence for finding in judged.findings],
        "rows": judged.rows,
        "graphs": Interpreted.graph.graphs,
        "kernels": sorted({one.template for one in ran}),
    }


def report_answered(case: str) -> dict[str, Any]:
    """What is said of the bug report on a case: what was not expected, and each claim's verdict."""
    *_, answer = answer_report(DecodeCase.from_text(case), "cpu", lambda step: None)
    claims = {claim.text: claim.verdict for claim in answer.claims}
    return {"unexpected": answer.unexpected, "claims": claims}


def script_status(name: str, case: str, verdict: str) -> int:
    """The exit code of the script that shows a verdict on such a function."""
    target = f"{ROOT / 'tests/support/launches.py'}:{name}"
    text = target_script(target, DecodeCase.from_text(case), "cpu", Verdict(verdict), triton=True)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "show.py")
        script.write_text(text, encoding="utf-8")
        return status(str(script))


def status(script: str) -> int:
    """The exit code of a script, run in a fork of this process."""
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        runpy.run_path(script, run_name="__main__")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def promises_broken(path: str) -> dict[str, str]:
    """The promises of the compile contract that a path breaks, with the evidence."""
    case = CONTRACT_CASE.replace(mode="compiled", kernels="triton")
    broken = contract.broken(PATHS[path], case=case)
    return {name: finding.evidence for name, finding in broken.items()}


def same_without_overhead(case: str) -> bool:
    """Whether a kernel's output has the same bits with all that its interpreter does."""
    inputs = Problem.of(DecodeCase.from_text(case)).inputs
    output = PATHS["full-cache"](inputs).output
    with mock.patch.object(kernels, "without_overhead", nullcontext):
        whole = PATHS["full-cache"](inputs).output
    return torch.equal(output, whole)


@triton.jit
def _reduce(x, most, least, first, index, columns: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, columns)
    at = tl.arange(0, 2)[:, None] * 2 * columns + row * columns + column[None, :]
    numbers = tl.load(x + at)
    place = row * 2 + tl.arange(0, 2)
    tl.store(most + place, triton_helpers.max2(numbers, 1))
    tl.store(least + place, triton_helpers.min2(numbers, 1))
    numbers, column = triton_helpers.max_with_index(numbers, column[None, :] + 0 * at, 1)
    tl.store(first + place, numbers)
    tl.store(index + place, column)


def same_reductions() -> bool:
    """Whether inductor's reductions give the same bits by slices as element by element."""
    numbers = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    numbers[1, 3:9] = numbers[1].max()
    numbers[2, 5], numbers[2, 11] = float("inf"), -float("inf")
    numbers[3, 7] = float("nan")

    def reduced() -> list[torch.Tensor]:
        results = [
            torch.zeros(4),
            torch.zeros(4),
            torch.zeros(4),
            torch.zeros(4, dtype=torch.int64),
        ]
        _reduce[(2,)](numbers, *results, 16)
        return [result.nan_to_num(7) for result in results]

    whole = reduced()
    with without_overhead():
        faster = reduced()
    return all(map(torch.equal, whole, faster)) and bool(whole[0].any())


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
    from tests.support.launches import elementwise

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
    case = DecodeCase.from_text("S=48,pos=30,D=16,mode=compiled")
    judgement = judge(PATHS["full-cache"], Problem.of(case))
    return judgement.verdict.passes and not PATHS["full-cache"].kernels(case)
