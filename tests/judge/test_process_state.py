"""Settings of the process: a call that leaves one changed is MUTATED, and the setting put back."""

import functools
import gc
import os
import random
import signal
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.precision import Precision
from harness.function.load import target_path
from harness.inputs import Inputs
from harness.paths import Result
from harness.verdict import Problem, Verdict, judge
from harness.verdict.process_state import SETTINGS, kept_settings
from tests.support.altered import altered
from tests.support.targets import base

CASE = DecodeCase.from_text("S=9,pos=4,D=16")
PROBLEM = Problem.of(CASE)
_CUDA: dict[str, Any] = {"device": 0, "stream": 0, "state": torch.zeros(2)}


def _round(mode: int) -> None:
    SETTINGS["the rounding mode of floating point"][1](mode)


# A change of each setting, as a decode call may leave it behind.
CHANGES: dict[str, Callable[[], Any]] = {
    "torch.get_num_threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch.get_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.get_default_device": lambda: torch.set_default_device("meta"),
    "torch.is_grad_enabled": lambda: torch.set_grad_enabled(True),
    "torch.is_autocast_enabled": lambda: torch.autocast("cpu").__enter__(),
    "torch.are_deterministic_algorithms_enabled": lambda: torch.use_deterministic_algorithms(True),
    "torch.utils.deterministic.fill_uninitialized_memory": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
    "torch.get_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.backends.cuda.matmul.allow_tf32": lambda: setattr(
        torch.backends.cuda.matmul, "allow_tf32", True
    ),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": lambda: setattr(
        torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False
    ),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False
    ),
    "torch.backends.cuda's SDPA kernels": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "torch.backends.cudnn.allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.cudnn.deterministic": lambda: setattr(
        torch.backends.cudnn, "deterministic", True
    ),
    "torch.backends.mkldnn.enabled": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "torch.cuda.current_device": lambda: _CUDA.update(device=1),
    "torch.cuda.current_stream": lambda: _CUDA.update(stream=1),
    "the flushing of subnormal numbers": lambda: torch.set_flush_denormal(True),
    "the rounding mode of floating point": lambda: _round(0x400),  # FE_DOWNWARD on x86
    "the state of torch's random numbers": lambda: torch.rand(1),
    "the state of CUDA's random numbers": lambda: _CUDA.update(state=torch.ones(2)),
    "the state of Python's random numbers": random.random,
    "the state of NumPy's random numbers": lambda: np.random.seed(1),
    "NumPy's handling of floating-point errors": lambda: np.seterr(all="ignore"),
    "the filters of warnings": lambda: warnings.simplefilter("ignore"),
    "the environment": lambda: os.environ.update(DECODING="1"),
    "the handlers of signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "the collection of garbage": gc.disable,
    "sys.getrecursionlimit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "the CPUs to run on": lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    "the working directory": lambda: os.chdir("/"),
    "sys.stdout": lambda: setattr(sys, "stdout", sys.stderr),
    "sys.stderr": lambda: setattr(sys, "stderr", sys.__stdout__),
}


def test_every_setting_has_a_change() -> None:
    """None is watched that could never be seen to change."""
    assert set(CHANGES) == set(SETTINGS)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device, as far as settings are concerned."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for key, read, write in (
        ("device", "current_device", "set_device"),
        ("stream", "current_stream", "set_stream"),
        ("state", "get_rng_state", "set_rng_state"),
    ):
        monkeypatch.setattr(torch.cuda, read, functools.partial(_CUDA.__getitem__, key))
        monkeypatch.setattr(torch.cuda, write, functools.partial(_CUDA.__setitem__, key))


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_changed_setting_is_named_and_put_back(name: str) -> None:
    """By the call that changed it, and at the next call again."""
    if name == "the CPUs to run on" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("not run: this machine has one CPU")
    before = SETTINGS[name][0]()

    def changes(inputs: Inputs, result: Result) -> torch.Tensor:
        CHANGES[name]()
        return result.output

    for _ in range(2):
        judgement = judge(altered(changes), PROBLEM)
        assert judgement.verdict is Verdict.MUTATED
        assert {f.verdict for f in judgement.findings} == {Verdict.MUTATED}
        assert any(f.evidence.startswith(f"changed {name}") for f in judgement.findings)
        now = SETTINGS[name][0]()
        assert torch.equal(now, before) if isinstance(now, torch.Tensor) else now == before


def test_the_recursion_limit_of_the_compiler_is_no_change() -> None:
    """Where a call compiles something, torch raises it to 2000 and leaves it there."""

    def compiles(inputs: Inputs, result: Result) -> torch.Tensor:
        sys.setrecursionlimit(max(sys.getrecursionlimit(), 2000))
        return result.output

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1500)
    try:
        judgement = judge(altered(compiles), PROBLEM)
        assert sys.getrecursionlimit() == 1500
    finally:
        sys.setrecursionlimit(before)
    assert judgement.verdict is Verdict.OK, judgement.findings


def test_a_call_that_leaves_gradients_on_is_seen() -> None:
    """Calls run without gradients; one that turns them on for itself and off again is sound."""

    def leaves(*tensors: Any) -> torch.Tensor:
        torch.set_grad_enabled(True)
        return base(*tensors)

    def borrows(*tensors: Any) -> torch.Tensor:
        with torch.enable_grad():
            return base(*tensors)

    paths = {f: target_path("", f, Domain(), Precision()) for f in (leaves, borrows)}
    judgement = judge(paths[leaves], PROBLEM)
    assert judgement.verdict is Verdict.MUTATED
    assert judgement.findings[0].evidence == "changed torch.is_grad_enabled from False to True"
    assert judge(paths[borrows], PROBLEM).verdict is Verdict.OK
    assert torch.is_grad_enabled()


def test_what_an_import_changes_is_not_the_calls_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call may import modules that filter warnings; a later one may not do so."""

    def imports_and_filters() -> None:
        monkeypatch.setitem(sys.modules, "imported_by_a_call", types.ModuleType("imported"))
        warnings.simplefilter("ignore")

    seen = []
    for _ in range(2):
        with kept_settings() as changed:
            imports_and_filters()
        seen.append(changed)
    assert seen == [[], ["the filters of warnings"]]


def test_numpy_is_not_imported_to_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its random numbers are there only where somebody imported them, be it in the call."""
    monkeypatch.delitem(sys.modules, "numpy.random")
    with kept_settings() as changed:
        assert "numpy.random" not in sys.modules
        monkeypatch.undo()
        np.random.seed(1)
    assert changed == []
    with kept_settings() as changed:
        np.random.seed(2)
    assert changed == ["the state of NumPy's random numbers"]
