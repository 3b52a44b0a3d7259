"""How a cache class is judged on a program: every row of every step against golden over what its
sequence should hold."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.case.precision import Precision
from harness.case.program import Program
from harness.paths import Result
from harness.serving.session import CacheClass, Call, Session
from harness.verdict.handing import same_bits
from harness.verdict.judgement import Finding, Problem, Verdict
from harness.verdict.judging import (
    beyond_budget,
    compare,
    differs,
    guarded,
    misshapen,
    nonfinite,
)
from harness.verdict.junk import junk_memory

# So many of the latest outputs are kept, to see whether a later call changes them.
_HELD = 8
# How the evidence begins where the cache itself says that it holds something else.
HOLDS = "holds"


@dataclass(frozen=True)
class ProgramJudgement:
    """What was found about one class on one program: findings of the first step that has any, its
    ``number`` from 1, the row ``at`` (sequence, head, token of the call) where one is wrong, and
    the largest utilisation of the budget. ``rows`` counts the rows that were judged."""

    program: Program
    findings: tuple[Finding, ...] = ()
    number: int = 0
    at: tuple[int, int, int] | None = None
    utilisation: float | None = None
    rows: int = 0

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK


@dataclass
class _Judge:
    session: Session
    precision: Precision
    reuses_output: bool
    held: deque[tuple[int, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=_HELD))
    outputs: list[Tensor] = field(default_factory=list)
    at: tuple[int, int, int] | None = None
    utilisation: float | None = None
    rows: int = 0

    def call(self, call: Call) -> list[Finding]:
        """Make one call, and judge it."""
        before = {name: tensor.clone() for name, tensor in call.tensors.items()}
        query = before["query"]
        changed: list[str] = []
        output = guarded(call.run, query.device, changed)
        if isinstance(output, Finding):
            return [output]
        found = [Finding(Verdict.MUTATED, f"changed {setting}") for setting in changed]
        for name, tensor in call.tensors.items():
            if not same_bits(before[name], tensor):
                found.append(Finding(Verdict.MUTATED, f"changed its argument {name}"))
        case = self.session.program.case
        shape = (case.batch, case.heads, query.size(2), case.value_dim)
        if wrong := misshapen(output, shape, query):
            return [*found, *wrong]
        assert isinstance(output, Tensor)
        found += self._earlier_outputs()
        if not self.reuses_output:
            self.held.append((call.number, output, output.clone()))
        self.outputs.append(output.detach().clone())
        return found + self._numbers(call, output.cpu()) + self._contents()

    def _numbers(self, call: Call, output: Tensor) -> list[Finding]:
        """What is wrong in the rows of each sequence that got tokens."""
        found: list[Finding] = []
        case = self.session.program.case
        for b, count in enumerate(call.counts):
            if not count:
                continue
            query = call.tensors["query"][b, :, :count].cpu()
            inputs = self.session.rows.inputs(case, b, call.slots, query)
            problem = Problem.given(inputs)
            result = Result(output[b : b + 1, :, :count])
            bound = problem.bound(self.precision, tensor_cores=call.tensors["query"].is_cuda)
            error = compare(result, problem.golden, bound)["output"]
            self.rows += case.heads * count
            self.utilisation = max(self.utilisation or 0.0, error.utilisation)
            index = (b, *error.index[1:])
            here = nonfinite(result)
            here += beyond_budget({"output": dataclasses.replace(error, index=index)})
            here = [Finding(f.verdict, f"sequence {b} is off: {f.evidence}") for f in here]
            if here and self.at is None:
                self.at = (b, error.index[1], error.index[2])
            found += here
        return found

    def _earlier_outputs(self) -> list[Finding]:
        for number, output, bits in self.held:
            if not same_bits(output, bits):
                what = f"changed the output of an earlier call, that of step {number}"
                return differs(Verdict.MUTATED, what, Result(bits), Result(output))
        return []

    def _contents(self) -> list[Finding]:
        """What the cache itself says that it holds, compared bit for bit."""
        for b, tokens in enumerate(self.session.rows.held):
            if not tokens:
                continue
            got = guarded(functools.partial(self.session.contents, b), torch.device("cpu"))
            if isinstance(got, Finding):
                return [got]
            if got is None:
                return []
            mine_and_its = zip(self.session.rows.contents(b), got, strict=True)
            for name, (mine, its) in zip(("key", "value"), mine_and_its, strict=True):
                if tuple(its.shape) != tuple(mine.shape):
                    text = f"{HOLDS} {its.size(1)} tokens of sequence {b}, should be {mine.size(1)}"
                    return [Finding(Verdict.WRONG, text)]
                off = (its.cpu() != mine).any(dim=0).any(dim=-1).nonzero().flatten().tolist()
                if off:
                    text = f"{HOLDS} another {name} for tokens {off} of sequence {b}"
                    return [Finding(Verdict.WRONG, text)]
        return []


def judge_program(
    cache: CacheClass,
    program: Program,
    device: str = "cpu",
    precision: Precision | None = None,
    *,
    reuses_output: bool = False,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
    begun: Callable[[int], None] = lambda number: None,
) -> ProgramJudgement:
    """Take the steps of ``program`` until one has a finding; if none has, take them once more with
    junk in new memory, which may change no bit.

    Each call is judged: its arguments and the settings of the process are unchanged; type, shape,
    dtype and device are right; no earlier output has changed, unless the class ``reuses_output``;
    every row of a new token is finite and within the budget of golden over what its sequence should
    hold; and what the cache says that it holds is that, bit for bit.

    Args:
        around: a context for whatever the class does.
        begun: gets the number of each step before it is taken.
    """
    chip = torch.device(device)
    number = 0
    session = guarded(lambda: Session(cache, program, device, around=around), chip)
    if isinstance(session, Finding):
        return ProgramJudgement(program, (session,))
    judge = _Judge(session, precision or Precision(), reuses_output)
    calls = session.calls()
    found: list[Finding] = []
    while not found:
        begun(number + 1)
        call = guarded(lambda: next(calls, None), chip)
        if isinstance(call, Finding):
            found, number = [call], session.number
        elif call is None:
            found, number = _again(session, judge), 0
            break
        else:
            number = call.number
            found = judge.call(call)
    return ProgramJudgement(
        program, tuple(found), number if found else 0, judge.at, judge.utilisation, judge.rows
    )


def _again(first_time: Session, judge: _Judge) -> list[Finding]:
    """A finding where the same program, with junk in new memory, gives other bits."""
    with junk_memory(first_time.device):
        session = first_time.anew()
        for call, first in zip(session.calls(), judge.outputs, strict=True):
            output = guarded(call.run, first.device)
            if isinstance(output, Finding):
                return [output]
            assert isinstance(output, Tensor)
            for b, count in enumerate(call.counts):
                what = f"step {call.number}, sequence {b}, with junk in new memory"
                rows = (Result(x[b : b + 1, :, :count]) for x in (first, output.detach()))
                if count and (changed := differs(Verdict.NONDETERMINISTIC, what, *rows)):
                    return changed
    return []
