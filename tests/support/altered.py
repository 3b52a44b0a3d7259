"""Paths with planted behaviour."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from harness.inputs import Inputs
from harness.paths import PATHS, Path, Result
from harness.paths.calls import Call


def altered(change: Callable[[Inputs, Result], object], of: str = "full-cache") -> Path:
    """A path that runs a sound one and then changes its result.

    ``change`` returns what the path is to return: an output, or a Result to keep the logsumexp.
    """

    def prepare(inputs: Inputs) -> Call:
        call = PATHS[of].prepare(inputs)

        def function(**arguments: object) -> object:
            result = call.function(**arguments)
            result = Result(*result) if isinstance(result, tuple) else Result(result)
            changed = change(inputs, result)
            if isinstance(changed, Result):
                return changed.output, changed.logsumexp
            return changed

        return Call(function, call.arguments)

    return Path("altered", "a sound path with a changed result", prepare)


def times(factor: float) -> Callable[[Inputs, Result], Tensor]:
    """Multiply the output."""
    return lambda inputs, result: result.output * factor
