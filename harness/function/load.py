"""A user's function as a path: how it is loaded and called."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

from torch import Tensor

from harness.case.domain import Domain
from harness.case.features import given_options, options_of
from harness.case.precision import Precision
from harness.function.spec import TargetError, place_and_name
from harness.inputs import Inputs
from harness.inputs.quantised import CODES
from harness.paths import Path, Result
from harness.paths.calls import Call
from harness.paths.path import without_gradients
from harness.support.frames import raised_at

Function = Callable[..., Tensor]
Watch = Callable[[Sequence[Tensor]], AbstractContextManager[None]]
# Where caches are quantised, a function gets their codes.
_STORED = dict(zip(("key_cache", "value_cache"), CODES, strict=True))
ARGUMENTS = ("query", "key_cache", "value_cache", "input_pos")


@dataclass(frozen=True)
class TargetPath(Path):
    """A user's function as a path.

    The function returns one tensor; a tuple, which from other paths is an output with a logsumexp,
    is malformed here. Each call runs within ``within``, the first the outermost, and then within
    ``watch`` of the tensors that it is given."""

    within: Sequence[Callable[[], AbstractContextManager[None]]] = ()
    watch: Watch | None = None

    def __call__(self, inputs: Inputs) -> Result:
        call = self.bound(inputs)
        with without_gradients(), ExitStack() as stack:
            for context in self.within:
                stack.enter_context(context())
            if self.watch is not None:
                given = [getattr(inputs, name) for name in ARGUMENTS]
                stack.enter_context(
                    self.watch([*given, *inputs.parameters.values(), *inputs.stored.values()])
                )
            return Result(call())


def target_path(
    name: str,
    function: Function,
    domain: Domain,
    precision: Precision,
    within: Sequence[Callable[[], AbstractContextManager[None]]] = (),
    watch: Watch | None = None,
) -> TargetPath:
    """A path that calls ``function`` within ``within`` and ``watch``, and takes the cases of
    ``domain``."""

    def call(options: dict[str, Any], **tensors: Tensor) -> Tensor:
        return function(*(tensors[name] for name in ARGUMENTS), **options)

    def prepare(inputs: Inputs) -> Call:
        tensors = {name: getattr(inputs, name) for name in ARGUMENTS}
        if inputs.case.quantised:
            tensors |= {name: inputs.stored[codes] for name, codes in _STORED.items()}
        return Call(call, dict(options=call_options(inputs), **tensors))

    return TargetPath(
        name,
        "a user's function",
        prepare,
        domain.refuses,
        ignores="any" if "nonfinite_tail" in domain.features else "finite",
        precision=precision,
        flex=False,
        quantised=True,
        subject=function,
        exact=False,
        within=within,
        watch=watch,
    )


def call_options(inputs: Inputs) -> dict[str, Any]:
    """The keyword arguments of a call: those of the case's mask, score_mods and scale alone."""
    case = inputs.case
    options: dict[str, Any] = dict(given_options(case))
    options |= inputs.parameters
    options |= {name: value for name, value in inputs.stored.items() if name not in CODES}
    if case.scale is not None:
        options["scale"] = case.scale
    return options


def load(spec: str) -> Function:
    """Import the module of a TARGET, ``spec``, and return the function.

    Raises:
        TargetError: for text of another form, a module that cannot be imported, or a name that is
            missing or no function.
    """
    place, name = place_and_name(spec)
    try:
        module = _from_file(FilePath(place)) if place.endswith(".py") else _from_package(place)
    except (Exception, SystemExit) as error:
        if isinstance(error, TargetError):
            raise
        text = (str(error).strip().splitlines() or [""])[0]
        raised = f"{type(error).__name__}: {text}{raised_at(error)}"
        raise TargetError(f"importing {place} raised {raised}") from None
    function: Any = module
    for part in name.split("."):
        if not hasattr(function, part):
            raise TargetError(f"{place} has no function {name!r}; it has {_functions(module)}")
        function = getattr(function, part)
    if not callable(function):
        raise TargetError(f"{spec} is of type {type(function).__name__}, not a function")
    return function


def _functions(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if inspect.isroutine(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(own[:8]) or "none"


def _from_package(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        # ``python -m`` puts the working directory on the path, the console script does not.
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise TargetError(f"there is no module {error.name}") from None
        raise


def _from_file(file: FilePath) -> ModuleType:
    # Modules beside the file can be imported, as if the file were run as a script.
    sys.path.insert(0, str(file.resolve().parent))
    name = file.stem if file.stem not in sys.modules else f"target_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check_signature(function: Function, domain: Domain) -> None:
    """Raise unless the function takes four positional arguments and the options of its features,
    with those of required features alone too.

    Raises:
        TargetError: for another signature; the message says with what it cannot be called.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # A function written in C may have no signature that can be read.
    for features in (domain.features, domain.requires):
        options = dict.fromkeys(options_of(features))
        try:
            signature.bind(*ARGUMENTS, **options)
        except TypeError as error:
            wanted = ", ".join([*ARGUMENTS, *options])
            text = f"{signature} cannot be called with {wanted}: {error}"
            if features is domain.requires:
                text += "; options need a default, or their features stand in requires"
            raise TargetError(text) from None
