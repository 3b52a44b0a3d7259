"""The only caller of torch.compile, with full graphs and explicit ``dynamic``; it counts graphs.

A fallback to eager is an error: with ``fullgraph=True`` torch raises at the recompile limit, where
it would otherwise go on silently without compiling.
"""

from __future__ import annotations

import functools
import itertools
import sysconfig
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._dynamo import config
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor import cpp_builder, exc

from harness.case import DecodeCase
from harness.paths import interpreted

if TYPE_CHECKING:
    from harness.interpreter.templates import Ran

_NUMBERS = itertools.count()


class Compiled:
    """A compiled function that counts the graphs it was compiled to.

    Dynamo keeps graphs, and limits recompiles, by code object. Each instance has a copy of the
    function's code object, so that it finds no graph of another geometry and has its own limit.
    The copy has a name of its own, since dynamo remembers by file, line and name which sizes have
    differed, and with ``dynamic`` takes other kernels for those. Each call, which may compile,
    happens ``within`` a context.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        dynamic: bool | None,
        mode: str | None = None,
        backend: str = "inductor",
        recompile_limit: int | None = None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        assert isinstance(function, types.FunctionType)
        own = types.FunctionType(
            function.__code__.replace(co_name=f"{function.__name__}_{next(_NUMBERS)}"),
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        own.__kwdefaults__ = function.__kwdefaults__
        self._call = torch.compile(own, fullgraph=True, dynamic=dynamic, mode=mode, backend=backend)
        self.graphs = 0
        self._within = within
        self._patch = {"recompile_limit": recompile_limit} if recompile_limit else {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = counters["stats"]["unique_graphs"]
        try:
            with config.patch(self._patch), self._within():
                return self._call(*args, **kwargs)
        finally:
            self.graphs += counters["stats"]["unique_graphs"] - before


def within(
    case: DecodeCase, ran: list[Ran] | None = None
) -> Callable[[], AbstractContextManager[None]]:
    """The context in which a case's function is compiled and called; the Triton kernels that are
    generated in it are appended to ``ran``."""
    if case.kernels == "triton":
        return functools.partial(interpreted.interpreting, [] if ran is None else ran)
    if case.kernels == "avx2":
        return functools.partial(inductor_config.patch, {"cpp.simdlen": 256})
    return nullcontext


@functools.cache
def why_not(device: str) -> str | None:
    """Why compiled FlexAttention cannot run on this kind of device, with the remedy; or None."""
    if device != "cpu":
        return None
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "compiled FlexAttention on CPU needs AVX2, which torch does not use here"
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return "no C++ compiler: install g++, or set CXX to a working compiler"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h: install the headers of this Python (python3-dev)"
    return None
