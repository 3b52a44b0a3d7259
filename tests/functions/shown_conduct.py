"""Ways to show what else a function does wrong than its numbers: to the process, to its inputs, to
outputs that it returned before."""

from __future__ import annotations

import gc
import os
import random
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from harness.function.load import ARGUMENTS, call_options
from harness.verdict.retained import gauges
from tests.functions.shown import Function, Shown, call, changed, problem_of


@dataclass(frozen=True)
class Held:
    """An output is changed by the ``calls`` later calls with other values."""

    case: str
    calls: int = 1

    def __call__(self, function: Function) -> bool:
        first = call(function, problem_of(self.case).inputs.clone())
        before = first.clone()
        for seed in range(self.calls):
            call(function, problem_of(changed(self.case, f"seed={seed + 1}")).inputs.clone())
        return not torch.equal(first, before)


@dataclass(frozen=True)
class Aliases:
    """The output changes where the inputs are written to after the call."""

    case: str

    def __call__(self, function: Function) -> bool:
        inputs = problem_of(self.case).inputs.clone()
        output = call(function, inputs)
        before = output.clone()
        for tensor in (inputs.query, inputs.key_buffer, inputs.value_buffer):
            tensor.zero_()
        return not torch.equal(output, before)


def _kept() -> tuple[int, int, int]:
    # What malloc has handed out, since resident memory may hold what was freed before.
    held = gauges("cpu")
    return held["bytes of memory"] // 2**20, held["threads"], held["open files"]


@dataclass(frozen=True)
class Retained:
    """After ``calls`` calls there is at least a megabyte, a thread or an open file more for each
    of half of them."""

    case: str
    calls: int = 40

    def __call__(self, function: Function) -> bool:
        inputs = problem_of(self.case).inputs.clone()
        call(function, inputs)
        before = _kept()
        for _ in range(self.calls):
            call(function, inputs)
        return any(b - a >= self.calls // 2 for a, b in zip(before, _kept(), strict=True))


def _settings() -> list[Any]:
    numpy = sys.modules.get("numpy")
    values = [
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        random.getstate(),
        gc.isenabled(),
        dict(os.environ),
        sys.getrecursionlimit(),
    ]
    return values + ([numpy.random.get_state()[1].tolist()] if numpy else [])


@dataclass(frozen=True)
class Sets:
    """A setting of the process is another one after the call."""

    case: str

    def __call__(self, function: Function) -> bool:
        import numpy  # noqa: F401  # so that its random state is among the settings

        inputs = problem_of(self.case).inputs.clone()
        with torch.no_grad():
            before = _settings()
            function(*(getattr(inputs, n) for n in ARGUMENTS), **call_options(inputs))
            return _settings() != before


@dataclass(frozen=True)
class Grows:
    """The output is part of a graph for gradients."""

    case: str

    def __call__(self, function: Function) -> bool:
        return call(function, problem_of(self.case).inputs.clone()).requires_grad


@dataclass(frozen=True)
class Ends:
    """The process does not survive the call; ``in_fork`` sees that, so nothing returns here."""

    case: str

    def __call__(self, function: Function) -> bool:
        call(function, problem_of(self.case).inputs.clone())
        return False


@dataclass(frozen=True)
class Costs:
    """One call takes at least so many ``megabytes`` beside its inputs."""

    case: str
    megabytes: int

    def __call__(self, function: Function) -> bool:
        inputs = problem_of(self.case).inputs.clone()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call(function, inputs)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > self.megabytes * 1024


@dataclass(frozen=True)
class Refuses:
    """Most of the ``cases``, the first of which is ``case``, raise NotImplementedError."""

    case: str
    others: tuple[str, ...]

    def __call__(self, function: Function) -> bool:
        refused = 0
        for text in (self.case, *self.others):
            try:
                call(function, problem_of(text).inputs.clone())
            except NotImplementedError:
                refused += 1
        return 2 * refused > 1 + len(self.others)


def in_fork(shown: Shown, function: Function) -> bool:
    """What ``shown`` says of the function, asked in a fork of this process; one that dies has shown
    its mistake only to ``Ends``."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            code = 11 if shown(function) else 10
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 12
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code == 11 or (isinstance(shown, Ends) and code not in (10, 12))
