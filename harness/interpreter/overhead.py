"""What Triton's interpreter does over and over without an effect, left out.

Each part gives the bits that the interpreter gives, in about a third of the time.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import GridExecutor, ReduceOps

_LANGUAGES = (tl, tl.core)
# Others, inductor's and users', may branch on a number or take its ``not``, which the interpreter
# does for one number alone.
_ELEMENTWISE = {
    ("torch._inductor.runtime.triton_helpers", "maximum"),
    ("torch._inductor.runtime.triton_helpers", "minimum"),
}
_reduce = ReduceOps.generic_reduce


def _along_axis(reduction: Any, inputs: Any) -> Any:
    """A reduction by a function of inductor's, whole slices at a time and not element by element:
    these functions do to each element of a slice what they do to one alone, in the same order along
    the axis."""
    axis, combine = reduction.axis, reduction.combine_fn.fn
    if axis is None or (combine.__module__, combine.__name__) not in _ELEMENTWISE:
        return _reduce(reduction, inputs)

    def at(index: int) -> list[Any]:
        slices = [x.handle.data.take([index], axis=axis) for x in inputs]
        return [reduction.to_tensor(s, x.dtype) for s, x in zip(slices, inputs, strict=True)]

    sums = at(0)
    for index in range(1, inputs[0].handle.data.shape[axis]):
        sums = [combine(*sums, *at(index))]
    if reduction.keep_dims:
        return sums
    return [reduction.to_tensor(x.handle.data.squeeze(axis), x.dtype) for x in sums]


@contextmanager
def without_overhead() -> Iterator[None]:
    """Within, kernels are interpreted without what has no effect."""
    builder = interpreter.interpreter_builder
    options = builder.options
    if not options.debug:
        # Without ``debug`` each sum of integers is made again in int64, compared, and forgotten.
        options = dataclasses.replace(options, sanitize_overflow=False)
    patch_lang, launch = interpreter._patch_lang, GridExecutor.__call__
    # The modules of the language, as a function's globals name them, that are patched by now.
    patched: set[tuple[int, ...]] = set()

    def launched(executor: Any, *arguments: Any, **keywords: Any) -> Any:
        """Run a grid, at whose end the language gets its own functions back."""
        patched.clear()
        return launch(executor, *arguments, **keywords)

    def patched_once(function: Any) -> Any:
        """Put the interpreter's functions into the language once a grid, and not in each call that
        a kernel makes."""
        values = function.__globals__.values()
        key = tuple(id(x) for x in values if isinstance(x, types.ModuleType) and x in _LANGUAGES)
        if key in patched:
            return interpreter._LangPatchScope()
        patched.add(key)
        return patch_lang(function)

    with (
        mock.patch.object(builder, "options", options),
        mock.patch.object(interpreter, "_patch_lang", patched_once),
        mock.patch.object(GridExecutor, "__call__", launched),
        mock.patch.object(ReduceOps, "generic_reduce", _along_axis),
    ):
        yield
