"""How far a gate reaches: compiled code, block tables and long contexts alone, what a change
touches, and steps whose process ends."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.nn.attention.flex_attention import BlockMask

from harness.decoding import decode_block_mask
from harness.gate import steps as gate
from harness.gate import text as gate_report
from harness.gate.changed import order, touched
from harness.gate.steps import Gate
from harness.inputs import Inputs
from harness.isolation.apart import Ended, apart
from harness.ledger.entries import Ledger
from harness.paths import PATHS, Result
from harness.paths.compile import Recent
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.altered import altered
from tests.support.gates import quick
from tests.support.processes import PATIENCE

PROOF, KEPT, CONTRACT, PROBES, LEDGER, _, COMPILED_GEOMETRIES, LONG, _ = gate.PLAN
COMPILED = "S=1024,pos=700,H=2,D=32,mode=compiled"


@pytest.mark.compiles
def test_a_block_table_that_is_wrong_is_red_by_the_first_thing_that_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lists one full block too few; eager FlexAttention does not read it."""

    def one_less(*arguments: Any, **options: Any) -> BlockMask:
        mask = decode_block_mask(*arguments, **options)
        assert mask.full_kv_num_blocks is not None
        return BlockMask.from_kv_blocks(
            mask.kv_num_blocks,
            mask.kv_indices,
            (mask.full_kv_num_blocks - 1).clamp(min=0),
            mask.full_kv_indices,
            BLOCK_SIZE=mask.BLOCK_SIZE,
            mask_mod=mask.mask_mod,
            seq_lengths=mask.seq_lengths,
            compute_q_blocks=False,
        )

    monkeypatch.setattr("harness.decoding.attention.decode_block_mask", one_less)
    changed = ("harness/decoding/block_mask.py",)
    run = quick(monkeypatch, PROBES, CONTRACT, seconds=0.0, changed=changed, compiled=COMPILED)
    assert [step.name for step in run.steps if step.failures] == [CONTRACT]
    assert run.failures[0].name == f"fixed {COMPILED}"


@pytest.mark.rotates(2)
@pytest.mark.parametrize("slots", [2**13, 2**16])
def test_a_path_that_is_wrong_in_long_contexts_alone_is_red(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an offset wraps around; by the step for them, and by no other."""

    def wrapped(inputs: Inputs, result: Result) -> Any:
        return result.output * (1 if inputs.case.cache_len <= slots else 1.01)

    monkeypatch.setitem(PATHS, "fixed", dataclasses.replace(altered(wrapped), name="fixed"))
    eager = tuple(text for text in gate.LONG if "compiled" not in text)
    monkeypatch.setattr(gate, "LONG", eager)
    run = quick(monkeypatch, KEPT, PROBES, LONG, seconds=0.0 if slots == 2**13 else math.inf)
    assert [step.name for step in run.steps if step.failures] == [LONG]


def test_what_a_change_touches_comes_right_after_the_proof() -> None:
    """In torch and in this project; a file that nobody knows changes nothing."""
    plan = list(gate.PLAN)
    assert order(plan, ["README.md"]) == plan
    template = "torch/_inductor/kernel/flex/templates/flex_decode.py.jinja"
    assert order(plan, [template])[:4] == [PROOF, CONTRACT, COMPILED_GEOMETRIES, LONG]
    assert touched([template]).kernels == "triton"
    assert touched(["torch/_inductor/codegen/cpp_flex_attention_template.py"]).kernels == "cpp"
    assert touched([template, "torch/_inductor/codegen/cpp.py"]).kernels == ""
    cache = order(plan, ["harness/decoding/kv_cache.py"])
    assert cache[:2] == [PROOF, KEPT] and sorted(cache) == sorted(plan)


@pytest.mark.parametrize(
    "path", [str(p.relative_to(ROOT)) for p in ROOT.glob("harness/decoding/*.py")]
)
def test_every_module_of_the_fixed_path_is_known_to_be_touched(path: str) -> None:
    """A change to what users import brings its steps forward."""
    assert touched([path]).steps or path.endswith("__init__.py")


@pytest.mark.compiles
def test_a_change_to_kernels_that_a_run_does_not_compile_leaves_it_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A green run would say nothing about it."""
    changed = ("torch/_inductor/kernel/flex/templates/flex_decode.py.jinja",)
    run = quick(monkeypatch, PROOF, COMPILED_GEOMETRIES, seconds=0.0, changed=changed)
    assert gate_report.headline(run, False).startswith("INCOMPLETE")
    assert "the triton kernels, which the change touches" in gate_report.to_markdown(run, "", False)


@pytest.mark.compiles
def test_compiled_geometries_say_which_pairs_they_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the full cache, which is written in the form of the geometry."""
    monkeypatch.setattr("harness.gate.geometries.in_order", lambda seed: [])
    monkeypatch.setattr(gate, "PATHS", {"full-cache": PATHS["full-cache"]})
    monkeypatch.setattr("harness.paths.path._COMPILED", Recent())
    # One geometry is run where there is no time; it is not ended for running over.
    monkeypatch.setattr(gate, "LEAST_OVER", 3600.0)
    run = Gate("cpu", 0.0, 1, None, lambda text: None, isolated=False)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "PLAN", {COMPILED_GEOMETRIES: gate.PLAN[COMPILED_GEOMETRIES]})
        run.run()
    [item] = [item for item in run.steps[0].items if item.notice]
    assert "0 of 16 geometries of the tests, 1 others" in item.evidence or not run.steps[0].counted
    assert re.search(r"\d+ of \d{4} pairs", item.evidence)


def _some(count: int) -> Iterator[int]:
    yield from range(count)


def _raising() -> Iterator[int]:
    yield 1
    raise KeyError("gone")


def _dying() -> Iterator[int]:
    yield 1
    os.kill(os.getpid(), signal.SIGSEGV)


def _exiting() -> Iterator[int]:
    yield 1
    os._exit(3)


def _hanging() -> Iterator[int]:
    yield 1
    time.sleep(600)


def test_work_apart_gives_what_it_yields() -> None:
    """In order, to the end."""
    assert list(apart(_some, 3, timeout=PATIENCE)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raising, "KeyError: 'gone'"),
        (_dying, "its process died of SIGSEGV"),
        (_exiting, "its process ended with status 3"),
    ],
)
def test_work_apart_that_ends_badly_says_how(
    function: Callable[[], Iterator[int]], message: str
) -> None:
    """As a GPU's poisoned context and a crash do; what came before is there."""
    pieces = apart(function, timeout=PATIENCE)
    assert next(pieces) == 1
    with pytest.raises(Ended, match=message):
        next(pieces)


def test_work_apart_that_hangs_is_ended() -> None:
    """Whether it has yielded something before or not, which depends on the machine."""
    with pytest.raises(Ended, match="no answer within 1 s"):
        list(apart(_hanging, timeout=1.0))


def test_a_ledger_that_cannot_be_measured_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate goes on, and says how its process ended."""

    def ended(*arguments: Any, timeout: float) -> Iterator[int]:
        raise Ended("its process died of SIGSEGV")
        yield

    monkeypatch.setattr(gate, "apart", ended)
    run = Gate("cpu", math.inf, 0, Ledger({}), lambda text: None)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "PLAN", {LEDGER: gate.PLAN[LEDGER]})
        run.run()
    assert [(item.verdict, item.evidence) for item in run.failures] == [
        (Verdict.WRONG, "its process died of SIGSEGV")
    ]
