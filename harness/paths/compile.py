"""The only caller of torch.compile, with full graphs and explicit ``dynamic``; it counts graphs.

A fallback to eager is an error: with ``fullgraph=True`` torch raises at the recompile limit, where
it would otherwise go on silently without compiling. torch's compiler takes a second to import: what
compiles imports it, and nothing else does.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sysconfig
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from harness.case import DecodeCase
from harness.paths import interpreted

if TYPE_CHECKING:
    from harness.interpreter.templates import Ran

T = TypeVar("T")

_NUMBERS = itertools.count()
# So much that was compiled is kept, more than a run needs at a time.
_KEPT = 128
_REMEDY = "install g++, or set CXX to a working compiler"


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
        from torch._dynamo import config
        from torch._dynamo.utils import counters

        before = counters["stats"]["unique_graphs"]
        try:
            with config.patch(self._patch), self._within():
                return self._call(*args, **kwargs)
        finally:
            self.graphs += counters["stats"]["unique_graphs"] - before


class Same:
    """An object as a key: equal to itself alone, whatever it takes for equal. A method is bound
    anew each time it is looked up, and is that of its object and function. The object is kept, so
    that no other one gets its place in memory."""

    def __init__(self, subject: object) -> None:
        self._subject = subject
        parts: tuple[object, ...] = (subject,)
        if isinstance(subject, types.MethodType):
            parts = (subject.__self__, subject.__func__)
        self._places = tuple(map(id, parts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._places == other._places

    def __hash__(self) -> int:
        return hash(self._places)


class Recent(dict[tuple[Any, ...], T]):
    """What was made for some keys: the ones used last, since compiled code takes memory."""

    def of(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What there is for a key, or what ``make`` gives."""
        value = self.pop(key) if key in self else make()
        self[key] = value
        while len(self) > _KEPT:
            del self[next(iter(self))]
        return value


def within(
    case: DecodeCase, ran: list[Ran] | None = None
) -> Callable[[], AbstractContextManager[None]]:
    """The context in which a case's function is compiled and called; the Triton kernels that are
    generated in it are appended to ``ran``."""
    if case.kernels == "triton":
        return functools.partial(interpreted.interpreting, [] if ran is None else ran)
    if case.kernels == "avx2":
        from torch._inductor import config

        return functools.partial(config.patch, {"cpp.simdlen": 256})
    return nullcontext


@functools.cache
def why_not(device: str) -> str | None:
    """Why compiled FlexAttention cannot run on this kind of device, with the remedy; or None."""
    if device != "cpu":
        return None
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "compiled FlexAttention on CPU needs AVX2, which torch does not use here"
    from torch._inductor import cpp_builder, exc

    try:
        compiler = cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError):  # The latter where CXX may not be run.
        return f"no C++ compiler: {_REMEDY}"
    # It may be there and lack the standard library's headers, say.
    call, text = [compiler, "-x", "c++", "-S", "-o", "-", "-"], b"#include <cmath>\n"
    if not subprocess.run(call, check=False, input=text, capture_output=True).stdout:
        return f"the C++ compiler {compiler} compiles nothing: {_REMEDY}"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h: install the headers of this Python (python3-dev)"
    return None


def not_compiled(error: BaseException, device: str) -> str | None:
    """Why code that compiles by itself has raised ``error`` on this kind of device, where that is
    for want of what compiling needs; or None."""
    # torch's errors of compiling have the one behind them.
    return why_not(device) if hasattr(error, "inner_exception") else None
