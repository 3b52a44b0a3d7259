"""Inductor made to generate the kernels of a GPU for tensors on the CPU: all that this changes.

Within ``interpreting`` a compiled function gets the Triton source that a CUDA machine would
compile, and Triton's interpreter runs it. Outside, torch is as it was.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.choices import InductorChoices
from torch._inductor.kernel.flex import flex_attention
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from triton.backends.compiler import GPUTarget

from harness.interpreter import arithmetic
from harness.interpreter.gpu import Gpu
from harness.interpreter.overhead import without_overhead
from harness.interpreter.templates import Ran, recorded

_CPU_BRANCH = "query.get_device().type == 'cpu'"
_DOT = ["self", "a", "b", "d", "input_precision", "max_num_imprecise_acc"]
_run_first = CachingAutotuner.run
_CONFIG = {
    "cpu_backend": "triton",
    # A cache would hand over kernels of another GPU, or ones with a planted defect.
    "fx_graph_cache": False,
    "fx_graph_remote_cache": False,
    "autotune_local_cache": False,
    "autotune_remote_cache": False,
    "bundle_triton_into_fx_graph_cache": False,
    "max_autotune": False,
}


class ChangedTorch(RuntimeError):
    """Something that has to be changed is not there, or not as it was: the message says what."""


class _Driver:
    """A Triton driver without a device, which only answers questions about it."""

    def __init__(self, gpu: Gpu) -> None:
        major, minor = gpu.capability
        self._target = GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ChangedTorch(f"{what}: this torch or Triton is not the one that is known")


@functools.cache
def _without_cpu_branch() -> types.CodeType:
    """The lowering of flex_attention compiled anew without its ``if`` for the CPU, which hands over
    to the C++ templates."""
    lowering = inspect.unwrap(flex_attention.flex_attention)
    tree = ast.parse(textwrap.dedent(inspect.getsource(lowering)))
    function = tree.body[0]
    _check(isinstance(function, ast.FunctionDef), "the lowering of flex_attention is no function")
    assert isinstance(function, ast.FunctionDef)
    function.decorator_list = []
    kept = [
        statement
        for statement in function.body
        if not (isinstance(statement, ast.If) and ast.unparse(statement.test) == _CPU_BRANCH)
    ]
    _check(len(kept) == len(function.body) - 1, f"the lowering has not one `if {_CPU_BRANCH}`")
    function.body = kept
    scope: dict[str, Any] = {}
    future = ast.parse("from __future__ import annotations").body
    module = ast.Module([*future, function], [])
    ast.fix_missing_locations(module)
    exec(compile(module, inspect.getfile(lowering), "exec"), lowering.__globals__, scope)
    return scope[function.name].__code__


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@contextmanager
def _code(function: types.FunctionType, code: types.CodeType) -> Iterator[None]:
    before = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


@contextmanager
def _driver(gpu: Gpu) -> Iterator[None]:
    drivers = triton.runtime.driver
    _check(hasattr(drivers, "_active"), "triton.runtime.driver keeps no active driver")
    with mock.patch.object(drivers, "_active", _Driver(gpu)):
        yield


@contextmanager
def _functions() -> Iterator[None]:
    """The functions of libdevice, under the names by which generated code calls them."""
    stubs: Any = vars(triton_helpers)["libdevice"]
    _check(stubs is not None, "inductor knows no libdevice")
    functions: dict[str, Any] = arithmetic.libdevice(stubs)
    for name in functions:
        _check(hasattr(stubs, name), f"libdevice has no {name}")
    with mock.patch.multiple(stubs, **functions):
        yield


def _run(kernel: Any, *arguments: Any, **options: Any) -> Any:
    """Run a kernel by the configuration with the widest block, of those that a GPU chooses among by
    their speed. The interpreter takes the first, which for a sum over splits is a program each
    element."""
    kernel.configs.sort(key=lambda each: -each.kwargs.get("XBLOCK", 0))
    return _run_first(kernel, *arguments, **options)


@contextmanager
def interpreting(gpu: Gpu, ran: list[Ran]) -> Iterator[None]:
    """Compile for ``gpu`` and interpret; what the templates are made into is appended to ``ran``.

    Raises:
        ChangedTorch: where something that has to be changed is not as it is known to be.
    """
    lowering = inspect.unwrap(flex_attention.flex_attention)
    _check(triton.knobs.runtime.interpret, "Triton does not interpret")
    _check(_parameters(arithmetic.interpreted_dot) == _DOT, "dot takes other operands")
    heuristics = InductorChoices.get_config_heuristics

    # Whoever asks for anything else of the device gets an AttributeError.
    properties = types.SimpleNamespace(multi_processor_count=gpu.multiprocessors)

    with ExitStack() as stack:
        enter = stack.enter_context
        # A row without a slot divides 0 by 0 on the way, on a GPU as well.
        enter(np.errstate(all="ignore"))
        enter(config.patch(_CONFIG))
        enter(functorch_config.patch(enable_autograd_cache=False))
        enter(_code(lowering, _without_cpu_branch()))
        # The number of splits follows from the number of multiprocessors.
        cuda = mock.patch.multiple(
            torch.cuda,
            get_device_properties=mock.Mock(return_value=properties),
            get_device_capability=mock.Mock(return_value=gpu.capability),
        )
        enter(cuda)
        # The tiles are those of the device type, so the CPU's are asked for; these are CUDA's.
        enter(
            mock.patch.object(
                InductorChoices,
                "get_config_heuristics",
                lambda self, device_type="cuda": heuristics(self, "cuda"),
            )
        )
        enter(arithmetic.with_narrow_floats())
        enter(without_overhead())
        enter(mock.patch.object(triton_helpers, "set_driver_to_cpu"))
        enter(mock.patch.object(CachingAutotuner, "run", _run))
        enter(_driver(gpu))
        enter(_functions())
        enter(recorded(ran))
        yield
