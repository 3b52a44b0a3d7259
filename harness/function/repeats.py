"""Repeats: the same call many times over, since a race may show once in twenty calls or in a
thousand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.inputs import Inputs
from harness.paths import Path, Result
from harness.verdict import Finding, Problem, Verdict, attempt, differs, handed, malformed
from harness.verdict.retained import held

# How often most cases are repeated, and how often some are: the first of a process, so that a
# single case is, and one that is larger than the first cases of a search.
FEW, MANY = 30, 1000
_LARGER = 8
# Repeats take so much of the time of judging, in proportion, and so many seconds of one case. One
# that took longer to judge is not repeated.
_SHARE = 0.2
_SECONDS = 0.4
# What the process holds is read after so many calls each. A function that keeps more than this is
# not repeated further: loops tell what it keeps, and call by its name what would be an OOM here.
_READ_EVERY = 16
_KEPT = {"bytes of memory": 2**26, "threads": 32, "open files": 32}


@dataclass
class Repeats:
    """Repeats calls of a process within their share of its time, and once one has given other bits,
    every call, so that the case can be shrunk.

    ``seconds`` is the most that the repeats of one case may take."""

    device: str
    seconds: float = _SECONDS
    spent: float = 0.0
    judged: float = 0.0
    count: int = 0
    racing: bool = False
    keeps: bool = False

    def of(self, path: Path, problem: Problem, output: Tensor, judged: float) -> list[Finding]:
        """A finding where a repeated call on the problem gives other bits than ``output``; nothing
        is called where it is not the turn of repeats.

        Args:
            output: what the first call gave, on the CPU.
            judged: the seconds in which the problem was judged.
        """
        self.judged += judged
        first = self.count == 0
        behind = self.spent < _SHARE * self.judged and judged <= self.seconds
        if self.keeps or not (first or self.racing or behind):
            return []
        self.count += 1
        calls = MANY if first or self.racing or self.count == _LARGER else FEW
        start = time.monotonic()
        found = self._repeated(path, problem, output, calls)
        self.spent += time.monotonic() - start
        self.racing = self.racing or bool(found)
        return found

    def _repeated(self, path: Path, problem: Problem, output: Tensor, calls: int) -> list[Finding]:
        made, wanted = 0, _bits(output)
        before = held(self.device)

        def repeat(inputs: Inputs) -> Result:
            nonlocal made
            begun = time.monotonic()
            while True:
                made += 1
                result = path(inputs)
                if made % _READ_EVERY == 0:
                    self.keeps = _more(before, held(self.device))
                late = time.monotonic() - begun > self.seconds
                if late or self.keeps or made == calls or not _same(result, wanted):
                    return result

        with handed(problem, self.device) as given:
            last = attempt(repeat, given.inputs)
            what = f"call {made} of the same on the same tensors"
            if isinstance(last, Finding):
                return differs(Verdict.NONDETERMINISTIC, what, Result(output), last)
            if wrong := malformed(given.inputs, last):
                return [Finding(Verdict.NONDETERMINISTIC, f"{what}: {wrong[0].evidence}")]
            bits = Result(_bits(last.output.cpu()))
            return differs(Verdict.NONDETERMINISTIC, what, Result(wanted), bits)


def _more(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    return any(now.get(name, 0) - before.get(name, 0) > most for name, most in _KEPT.items())


def _bits(output: Tensor) -> Tensor:
    return output.contiguous().view({2: torch.int16, 4: torch.int32}[output.element_size()])


def _same(result: Result, wanted: Tensor) -> bool:
    output = result.output
    if not isinstance(output, Tensor) or output.element_size() != wanted.element_size():
        return False
    return torch.equal(_bits(output.detach().cpu()), wanted)
