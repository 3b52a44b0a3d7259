"""How a path is judged on a loop: every call against golden over what the cache then holds, and
what the calls leave behind."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.case import InvalidCase
from harness.case.loop import Loop, Step
from harness.inputs import Inputs, LoopInputs, Stage
from harness.paths import Path, Result
from harness.verdict.judgement import Finding, Problem, Verdict
from harness.verdict.judging import (
    attempt,
    beyond_budget,
    differs,
    errors_of,
    malformed,
    memory_shared,
    mutations,
    nonfinite,
)
from harness.verdict.retained import checkpoints, few_objects, gauges, growth

# So many of the latest outputs are kept, to see whether a later call changes them.
_HELD = 8
_TIMED = 64
# What a path may have kept of an earlier call, the least that explains an output first.
_OLD = (
    ("input_pos",),
    ("key_buffer",),
    ("value_buffer",),
    ("key_buffer", "value_buffer"),
    ("query",),
    ("key_buffer", "value_buffer", "input_pos"),
    ("query", "key_buffer", "value_buffer", "input_pos"),
)
_SPOKEN = {
    "query": "the query",
    "key_buffer": "the keys",
    "value_buffer": "the values",
    "input_pos": "the positions",
}


def _listed(names: tuple[str, ...]) -> str:
    *first, last = (_SPOKEN[name] for name in names)
    return f"{', '.join(first)} and {last}" if first else last


@dataclass(frozen=True)
class LoopJudgement:
    """What was found about one path on one loop: findings of the first call that has any, its
    ``number`` from 1, and the largest utilisation of the budget.

    ``as_if`` says, where it is so, as which mixture of earlier calls' tensors the output is right.
    ``invalid`` counts calls on which no implementation can be judged. ``seconds`` is the median
    time of a call, without judging it, which other work on the machine changes little."""

    loop: Loop
    findings: tuple[Finding, ...] = ()
    number: int = 0
    as_if: str = ""
    utilisation: float | None = None
    invalid: int = 0
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK


@dataclass
class _Judge:
    """Judges one call after the other. ``known`` are outputs of a long run's first calls, by
    number."""

    path: Path
    device: str
    reuses_output: bool
    held: deque[tuple[int, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=_HELD))
    known: dict[int, Tensor] = field(default_factory=dict)
    earlier: deque[tuple[int, Inputs]] = field(default_factory=lambda: deque(maxlen=_HELD))
    as_if: str = ""
    utilisation: float | None = None
    invalid: int = 0
    seconds: list[float] = field(default_factory=list)

    def call(self, stage: Stage, inputs: Inputs) -> list[Finding]:
        """Make one call, and judge it."""
        case = inputs.case
        if reason := self.path.unsupported(case, self.device):
            return [Finding(Verdict.UNSUPPORTED, reason)]
        before = inputs.clone()
        changed: list[str] = []
        start = time.perf_counter()
        result = attempt(self.path, inputs, changed)
        if len(self.seconds) < _TIMED:
            self.seconds.append(time.perf_counter() - start)
        if isinstance(result, Finding):
            return [result]
        findings = mutations(before, inputs)
        findings += [Finding(Verdict.MUTATED, f"changed {setting}") for setting in changed]
        if wrong := malformed(before, result):
            return [*findings, *wrong]
        findings += self._earlier_outputs()
        self._hold(stage, inputs, result)
        same = self.known.get(stage.same) if stage.same is not None else None
        if findings or (same is not None and torch.equal(same, result.output)):
            return findings
        return self._numbers(stage, before, result)

    def _numbers(self, stage: Stage, before: Inputs, result: Result) -> list[Finding]:
        output = result.output.detach().clone()
        try:
            problem = Problem.given(before.to("cpu"))
        except InvalidCase:
            self.invalid += 1
            return []
        result = replace(result, output=output)
        errors = errors_of(self.path, problem, result)
        self.utilisation = max(self.utilisation or 0.0, errors["output"].utilisation)
        if found := nonfinite(result) + beyond_budget(errors):
            self.as_if = self._explanation(problem.inputs, result)
            return found
        if stage.step is not None and stage.step.calls > 1 and stage.same is None:
            self.known[stage.number] = output
        self.earlier.append((stage.number, problem.inputs))
        return []

    def _explanation(self, now: Inputs, result: Result) -> str:
        """Which tensors of which earlier call, in place of those of now, make the output right."""
        for number, then in reversed(self.earlier):
            if then.case.geometry != now.case.geometry:
                continue
            for names in _OLD:
                old = {name: getattr(then, name) for name in names}
                case = then.case if "input_pos" in names else now.case
                try:
                    problem = Problem.given(replace(now, case=case, **old))
                except InvalidCase:
                    continue
                if not beyond_budget(errors_of(self.path, problem, result)):
                    return f"right for {_listed(names)} of call {number}"
        return ""

    def _earlier_outputs(self) -> list[Finding]:
        for number, output, bits in self.held:
            if not torch.equal(output, bits):
                what = f"changed the output of an earlier call, call {number}"
                return differs(Verdict.MUTATED, what, Result(bits), Result(output))
        return []

    def _hold(self, stage: Stage, inputs: Inputs, result: Result) -> None:
        output = result.output.detach()
        # An output that lies in an input changes with the input.
        if not self.reuses_output and not memory_shared(inputs, output):
            self.held.append((stage.number, output, output.clone()))


def judge_loop(
    path: Path,
    loop: Loop,
    device: str = "cpu",
    *,
    reuses_output: bool = False,
    last_alone: bool = False,
    begun: Callable[[int], None] = lambda number: None,
) -> LoopJudgement:
    """Make the calls of ``loop`` until one of them has a finding.

    A call is judged as ``judge`` does, without its second runs: inputs and settings of the process
    are unchanged; type, shape, dtype and device are right; no output of an earlier call has
    changed, unless the path ``reuses_output``; the output is finite, and within the budget of
    golden over what the cache holds. In long runs a call whose output has the bits of an earlier
    one, which had the same inputs, is right; and what the process holds may not grow with the
    number of calls (RETAINED).

    Args:
        last_alone: leave out all calls but the last; the tensors change as they would.
        begun: gets the number of each call before it is made.
    """
    judge = _Judge(path, device, reuses_output)
    tensors = LoopInputs(loop, device)
    readings: dict[int, dict[str, int]] = {}
    number = 0
    refused: list[Finding] = []
    with few_objects():
        for stage in tensors.stages():
            number = stage.number
            if last_alone and number < loop.calls:
                continue
            begun(number)
            if stage.index == 0:
                readings = {}
            findings = judge.call(stage, tensors.inputs)
            if findings and findings[0].verdict is Verdict.UNSUPPORTED:
                # A function need not take every geometry that a step asks for.
                refused += findings
                continue
            if not findings and stage.step is not None and stage.step.calls > 1:
                findings = _kept(stage.step, stage.index + 1, readings, device)
            if findings:
                break
        else:
            # No call was judged where as many were refused as were made.
            findings = refused[:1] if len(refused) == (1 if last_alone else loop.calls) else []
    return LoopJudgement(
        loop,
        tuple(findings),
        number,
        judge.as_if,
        judge.utilisation,
        judge.invalid,
        statistics.median(judge.seconds) if judge.seconds else 0.0,
    )


def _kept(step: Step, made: int, readings: dict[int, dict[str, int]], device: str) -> list[Finding]:
    """Read the gauges where it is time, and say what grows."""
    if made not in checkpoints(step.calls):
        return []
    readings[made] = gauges(device)
    grown = growth(readings, end=made == step.calls)
    return [Finding(Verdict.RETAINED, grown)] if grown else []
