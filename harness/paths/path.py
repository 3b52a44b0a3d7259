"""Path: one implementation of a decode call that is under test.

A path prepares a call outside the compiled region (block masks, slices) and names the function
that runs, eager or compiled. It declares what it does not support, which tails it ignores and how
it rounds, and is judged by these declarations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.case import RECIPES, DecodeCase
from harness.case.forms import plain
from harness.case.precision import Precision
from harness.inputs import Inputs, make_inputs
from harness.oracle.budget import largest
from harness.paths import interpreted
from harness.paths.calls import Call
from harness.paths.compile import Compiled, Recent, Same, why_not, within

if TYPE_CHECKING:
    from harness.interpreter.templates import Ran


@dataclass(frozen=True)
class Result:
    """What a path returns: ``output`` ``[B, Hq, Q, Dv]`` and, from some paths, ``logsumexp``
    ``[B, Hq, Q]`` in natural base."""

    output: Tensor
    logsumexp: Tensor | None = None


# A small cache of more than one block, with a position inside a block.
CONTRACT_CASE = DecodeCase(cache_len=48, input_pos=(20,), heads=2, head_dim=16, block_size=(16, 16))


@dataclass(frozen=True)
class Path:
    """One implementation of a decode call.

    ``prepare`` makes the call from the inputs. ``declines(case)`` gives the reason why the path
    does not take a case, or None; ``recipes`` are the block mask recipes that it follows.
    ``ignores`` is its tail contract: it ignores ``finite`` tails, or ``any``. ``flex`` says whether
    it calls flex_attention, and ``avoids_known_failures`` that it avoids what compiled
    FlexAttention on CPU is known to get wrong. A ``static`` path promises one graph for all
    positions; ``contract_case`` is the case on which such promises are checked. A path that is
    ``known_wrong`` is there to be shown wrong, and is left out where paths must be right. One that
    is ``quantised`` takes quantised caches. ``subject`` is the implementation, ``prepare`` where it
    is None: what was compiled for one is never called for another, whatever their names are. One
    that is ``exact`` promises more than the budget asks for: integers over 2^k slots are summed
    exactly.
    """

    name: str
    doc: str
    prepare: Callable[[Inputs], Call]
    declines: Callable[[DecodeCase], str | None] = lambda case: None
    recipes: tuple[str, ...] = RECIPES
    ignores: str = "finite"
    precision: Precision = field(default_factory=Precision)
    flex: bool = True
    avoids_known_failures: bool = False
    static: bool = True
    contract_case: DecodeCase = CONTRACT_CASE
    known_wrong: bool = False
    quantised: bool = False
    forms: bool = False
    subject: object = None
    exact: bool = True

    def refuses(self, case: DecodeCase) -> str | None:
        """Why this path does not take ``case`` on any device, or None."""
        if case.quantised and not self.quantised:
            return f"takes no cache={case.cache}"
        if not case.tail_kind.finite and self.ignores == "finite":
            return f"promises to ignore finite tails only, not tail={case.tail}"
        operand = self.precision.operand
        if case.tail_kind.value == "max" and operand and largest(operand) < largest(case.dtype):
            return f"tail={case.tail} is beyond the range of the declared operands, {operand}"
        if case.recipe not in self.recipes:
            return f"follows recipe={' '.join(self.recipes)} only, not recipe={case.recipe}"
        if not (self.forms or plain(case)):
            return "makes its block mask itself: no tables, tsize, capture, options, layers"
        return self.declines(case)

    def unsupported(self, case: DecodeCase, device: str) -> str | None:
        """Why this path does not take ``case`` on ``device``, or None."""
        kind = torch.device(device).type
        if case.kernels == "triton" and kind == "cpu":
            if not self.flex:
                return "kernels=triton is about flex_attention, which this path does not call"
            if reason := interpreted.why_not():
                return reason
            if reason := _not_interpreted(case):
                return reason
        elif case.mode != "eager" and (reason := why_not(kind)):
            return reason
        elif self.flex and case.has_column and case.mode != "eager" and kind == "cpu":
            return "score=sink needs the logsumexp, which compiled FlexAttention on CPU lacks"
        return self.refuses(case)

    def compiled(
        self, case: DecodeCase, function: Callable[..., Any], device: torch.device
    ) -> Compiled:
        """``function`` compiled for the case's geometry, and called with the cache lengths that
        came earlier; once per process, implementation, geometry and device, of those used last."""

        def compiled() -> tuple[Compiled, list[Ran]]:
            mode = None if case.mode == "compiled" else case.mode
            ran: list[Ran] = []
            context = within(case, ran)
            own = Compiled(function, dynamic=case.dynamic_shapes, mode=mode, within=context)
            for earlier in case.earlier_calls():
                own(**self.prepare(make_inputs(earlier).to(device)).arguments)
            return own, ran

        return _COMPILED.of(self._key(case, device), compiled)[0]

    def _key(self, case: DecodeCase, device: torch.device) -> tuple[Any, ...]:
        subject = self.prepare if self.subject is None else self.subject
        return Same(subject), case.geometry, device.type, device.index or 0

    def graphs(self, case: DecodeCase, device: str = "cpu") -> int:
        """How many graphs this process compiled for the case's geometry."""
        found = _COMPILED.get(self._key(case, torch.device(device)))
        return found[0].graphs if found else 0

    def kernels(self, case: DecodeCase, device: str = "cpu") -> tuple[Ran, ...]:
        """The Triton kernels that this process generated for the case's geometry."""
        found = _COMPILED.get(self._key(case, torch.device(device)))
        return tuple(found[1]) if found else ()

    def bound(self, inputs: Inputs) -> Callable[[], Any]:
        """The prepared call as a function without arguments, eager or compiled."""
        call = self.prepare(inputs)
        function = call.function
        if inputs.case.mode != "eager":
            function = self.compiled(inputs.case, function, inputs.query.device)
        return functools.partial(function, **call.arguments)

    def __call__(self, inputs: Inputs) -> Result:
        call = self.bound(inputs)
        with without_gradients():
            result = call()
        if not isinstance(result, list):
            return _result(result)
        # Of several layers, which all are to give the same, one that differs from the last.
        *others, last = map(_result, result)
        return next((r for r in others if not torch.equal(r.output, last.output)), last)


def _result(returned: Any) -> Result:
    return Result(*returned) if isinstance(returned, tuple) else Result(returned)


def _not_interpreted(case: DecodeCase) -> str | None:
    if case.capture == "number":
        return "Triton's interpreter takes no number of the CPU that a mask_mod captures"
    if min(case.head_dim, case.value_dim) < 16:
        return "the Triton kernels of FlexAttention need a head dim of 16 or more"
    return None


def without_gradients() -> AbstractContextManager[object]:
    """A context without gradients. Within another one it does nothing, so that a call that leaves
    gradients on is seen outside of it."""
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


_COMPILED = Recent[tuple[Compiled, "list[Ran]"]]()
