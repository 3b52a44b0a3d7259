"""One implementation of a decode call.

A path prepares a call outside the compiled region (block masks, slices) and names the function
that runs, eager or compiled. It says what it does not support, which tails it promises to ignore
and how it rounds; the harness holds it to all of that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.case import NONFINITE_TAILS, DecodeCase
from harness.inputs import Inputs
from harness.oracle.budget import Precision
from harness.paths.calls import Call
from harness.paths.compile import Compiled, why_not


@dataclass(frozen=True)
class Result:
    """``output`` ``[B, Hq, Q, Dv]``; ``logsumexp`` ``[B, Hq, Q]``, natural base, where given."""

    output: Tensor
    logsumexp: Tensor | None = None


@dataclass(frozen=True)
class Path:
    """One implementation of a decode call.

    ``refuses(case)`` gives the reason why a case is outside its contract, or None. ``ignores`` is
    its tail contract: ``finite`` leftovers, or ``any`` bits. ``flex`` says whether it calls
    flex_attention. A ``static`` path promises one graph for all positions. One that is
    ``known_wrong`` is there to be shown wrong and counts for nothing.
    """

    name: str
    doc: str
    prepare: Callable[[Inputs], Call]
    refuses: Callable[[DecodeCase], str | None] = lambda case: None
    ignores: str = "finite"
    precision: Precision = field(default_factory=Precision)
    flex: bool = True
    static: bool = True
    known_wrong: bool = False

    def unsupported(self, case: DecodeCase, device: str) -> str | None:
        """Why this path does not take ``case`` on ``device``, or None."""
        if case.tail in NONFINITE_TAILS and self.ignores == "finite":
            return f"promises to ignore finite tails only, not tail={case.tail}"
        if case.mode != "eager" and (reason := why_not(torch.device(device).type)):
            return reason
        return self.refuses(case)

    def compiled(self, case: DecodeCase, function: Callable[..., Any]) -> Compiled:
        """The compiled ``function`` for the case's geometry; compiled once per process."""
        key = (self.name, case.geometry)
        if key not in _COMPILED:
            mode = None if case.mode == "compiled" else case.mode
            _COMPILED[key] = Compiled(function, dynamic=case.dynamic, mode=mode)
        return _COMPILED[key]

    def graphs(self, case: DecodeCase) -> int:
        """How many graphs this process compiled for the case's geometry."""
        compiled = _COMPILED.get((self.name, case.geometry))
        return compiled.graphs if compiled else 0

    def bound(self, inputs: Inputs) -> Callable[[], Any]:
        """The prepared call, eager or compiled, without arguments left."""
        call = self.prepare(inputs)
        function = call.function
        if inputs.case.mode != "eager":
            function = self.compiled(inputs.case, function)
        return functools.partial(function, **call.arguments)

    def __call__(self, inputs: Inputs) -> Result:
        call = self.bound(inputs)
        with torch.no_grad():
            result = call()
        return Result(*result) if isinstance(result, tuple) else Result(result)


_COMPILED: dict[tuple[Any, ...], Compiled] = {}
