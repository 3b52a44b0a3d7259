"""Loops: what their text says, how their tensors change, and what is found in them."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from harness.case import CaseError, DecodeCase
from harness.case.loop import STEPS, Loop, Step, loops_as_text, loops_from_text
from harness.case.precision import Precision
from harness.function.declarations import Declarations
from harness.function.load import target_path
from harness.inputs import Inputs, LoopInputs
from harness.oracle.golden import golden
from harness.paths import Path
from harness.verdict import Verdict, judge_loop
from harness.verdict.retained import checkpoints, growth
from tests.support import stateful
from tests.support.stateful import Function

EVERY = (
    "again next next back:2 jump:2 query replace free move next other:2:17 next swap next swap"
    " run:20 fresh:20"
)
SHORT = "S=16,pos=3,D=16,tail=poison"


def path_of(function: Function, loop: Loop) -> Path:
    """The function as a path that takes all that the loop has."""
    path = target_path(function.__name__, function, Declarations().around(loop.case), Precision())
    return dataclasses.replace(path, declines=lambda case: None)


def test_the_text_of_loops_is_read_as_it_is_written() -> None:
    """Also of several, and with other blanks."""
    text = f"{SHORT} {EVERY}"
    loop = Loop.from_text(text)
    assert str(loop) == text
    assert Loop.from_text(f"  {text.replace(' ', '   ')} ") == loop
    assert loop.calls == 1 + 15 + 20 + 20
    both = loops_from_text(f"S=4,pos=1;{text}")
    assert both == (Loop(DecodeCase.from_text("S=4,pos=1")), loop)
    assert loops_from_text(loops_as_text(both)) == both


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S=4,pos=1 nexd", "calls: 'nexd' is not one of again next back:N"),
        ("S=4,pos=1 back", "calls: back: "),
        ("S=4,pos=1 back:0", "0 is not a whole number 1 to"),
        ("S=4,pos=1 next:2", "calls: next:2: "),
        ("next", "'next' is not key=value"),
        ("", "'' is not key=value"),
        ("S=4,pos=1,B=2,layout=expanded next", "layout=expanded shares the storage"),
        ("S=4,pos=1,Q=3 other:1:2", "exceeds cache_len"),
    ],
)
def test_text_that_is_no_loop_is_refused(text: str, message: str) -> None:
    """With what is allowed."""
    with pytest.raises(CaseError) as error:
        Loop.from_text(text)
    assert message in str(error.value)


def test_every_step_changes_what_its_help_says() -> None:
    """The tensors, their numbers and their addresses, before and after."""
    tensors = LoopInputs(Loop.from_text(f"{SHORT} {EVERY}"))
    changed: dict[str, set[str]] = {}
    before: Inputs | None = None
    addresses: dict[str, int] = {}
    for stage in tensors.stages():
        now = tensors.inputs
        if stage.step is not None and before is not None and stage.index == 0:
            seen = changed.setdefault(stage.step.word, set())
            for name, old in before.tensors.items():
                new = now.tensors[name]
                if old.shape != new.shape or not old.equal(new):
                    seen.add(name)
                if addresses[name] != new.data_ptr():
                    seen.add(f"{name} at another address")
        before, addresses = now.clone(), {n: t.data_ptr() for n, t in now.tensors.items()}
        del now
    caches = {"key_buffer", "value_buffer"}
    moved = {f"{name} at another address" for name in (*caches, "query", "input_pos")}
    assert changed["again"] == set()
    assert changed["jump"] == {"input_pos"}
    assert changed["query"] == {"query"}
    assert changed["replace"] == caches
    assert changed["move"] == moved
    assert caches <= changed["free"] and "input_pos" not in changed["free"]
    for word in ("next", "back"):
        assert changed[word] - moved == {*caches, "query", "input_pos"}
        assert not changed[word] & {f"{name} at another address" for name in caches}
    assert changed["other"] >= caches and changed["swap"] >= caches
    assert set(changed) == set(STEPS)


@pytest.mark.parametrize("steps", ["jump:30", "next jump:30", "back:3 jump:35 next"])
def test_what_a_window_has_left_is_finite_wherever_the_position_jumps(steps: str) -> None:
    """It was written once; beyond the newest token NaN stays."""
    loop = Loop.from_text(f"S=40,pos=5/9,D=16,mask=window:4,tail=nan {steps}")
    tensors = LoopInputs(loop)
    for _ in tensors.stages():
        inputs = tensors.inputs
        for b, position in enumerate(inputs.case.input_pos):
            value = inputs.value_cache[b]
            assert value[:, : position + 1].isfinite().all()
            assert value[:, 37:].isnan().all()


def test_a_long_run_comes_back_to_the_same_bits() -> None:
    """A call that says so has the tensors of the earlier call; the positions advance."""
    for word in ("run", "fresh"):
        tensors = LoopInputs(Loop.from_text(f"S=16,pos=9/2,Q=2,H=2,D=16 {word}:20"))
        seen: dict[int, Inputs] = {}
        for stage in tensors.stages():
            if stage.same is not None:
                pairs = zip(
                    seen[stage.same].tensors.values(), tensors.inputs.tensors.values(), strict=True
                )
                assert all(a.equal(b) for a, b in pairs)
            seen[stage.number] = tensors.inputs.clone()
        assert len({s.case.input_pos for s in seen.values()}) >= 8


@pytest.mark.parametrize(
    "case",
    [
        "S=64,pos=10,D=16,tail=poison",
        "S=33,pos=30/-1/2,Q=3,H=4,Hkv=2,D=16,dtype=bf16,tail=max,mask=window:4",
        "S=20,pos=3,D=16,Dv=8,dtype=fp16,tail=poison,layout=stepped,score=softcap:20+alibi",
    ],
)
def test_no_sound_function_is_accused_in_a_loop(case: str) -> None:
    """After every step, in every dtype."""
    loop = Loop.from_text(f"{case} {EVERY}")
    judged = judge_loop(path_of(stateful.everything, loop), loop)
    assert judged.findings == () and judged.number == loop.calls and judged.invalid == 0


@pytest.mark.parametrize("function", stateful.SOUND, ids=lambda f: f.__name__)
def test_a_sound_function_may_keep_something(function: Function) -> None:
    """Workspaces, tables, pools: what it hands out is its own, and right."""
    loop = Loop.from_text(f"{SHORT} {EVERY} run:100")
    assert judge_loop(path_of(function, loop), loop).findings == ()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_newest_token_has_most_of_the_weight(dtype: str) -> None:
    """So that a stale cache shows in every dtype: the output is near the token's value."""
    loop = Loop.from_text(f"S=512,pos=400,D=64,dtype={dtype} next next")
    tensors = LoopInputs(loop)
    for stage in itertools.islice(tensors.stages(), 1, None):
        case = tensors.inputs.case
        newest = tensors.inputs.value_cache[0, 0, case.input_pos[0]].double()
        distance = (golden(tensors.inputs).output.flatten() - newest).norm() / newest.norm()
        assert distance < 0.5, stage


LOOP = f"{SHORT} next next jump:2 query replace free back:1 next move next other:2:24 next swap"


@pytest.mark.parametrize("function", stateful.STALE, ids=lambda f: f.__name__)
def test_what_is_kept_of_an_earlier_call_shows(function: Function) -> None:
    """As wrong numbers of a later call, which by itself is right."""
    loop = Loop.from_text(f"{LOOP} run:300")
    stateful.KEPT.clear()
    judged = judge_loop(path_of(function, loop), loop)
    assert judged.verdict in (Verdict.WRONG, Verdict.ERROR), judged
    assert judged.number > 1
    stateful.KEPT.clear()
    cut = Loop(loop.case, loop.steps[: max(0, judged.number - 1)])
    if function is not stateful.counter_overflows:
        assert judge_loop(path_of(function, cut), cut, last_alone=True).findings == ()


def test_what_was_kept_is_named() -> None:
    """The tensors of an earlier call for which the output is right."""
    named = {
        stateful.plan_by_shape: "the positions of call 1",
        stateful.keyed_by_identity: "the keys of call 1",
        stateful.keyed_by_address: "the values of call 1",
        stateful.last_result: "the keys and the values of call ",
    }
    for function, text in named.items():
        loop = Loop.from_text(f"{SHORT} next jump:2 replace")
        stateful.KEPT.clear()
        assert text in judge_loop(path_of(function, loop), loop).as_if, function.__name__


@pytest.mark.parametrize("function", stateful.REUSES, ids=lambda f: f.__name__)
def test_a_buffer_that_is_handed_out_twice_shows(function: Function) -> None:
    """Unless the function declares that it reuses its output."""
    loop = Loop.from_text(f"{SHORT} next next next")
    judged = judge_loop(path_of(function, loop), loop)
    assert judged.verdict is Verdict.MUTATED
    assert "changed the output of an earlier call, call " in judged.findings[0].evidence
    assert judge_loop(path_of(function, loop), loop, reuses_output=True).findings == ()


def test_a_call_that_fails_by_itself_fails_last_and_alone() -> None:
    """Without the calls before it, whose changes of the tensors are made all the same."""
    loop = Loop.from_text(f"{SHORT} next next")
    for alone in (False, True):
        made: list[int] = []
        path = path_of(lambda q, k, v, p: stateful.sound(q, k, v, p) * (p != 5), loop)  # type: ignore[arg-type, return-value]
        judged = judge_loop(path, loop, last_alone=alone, begun=made.append)
        assert (judged.verdict, judged.number) == (Verdict.WRONG, 3)
        assert made == ([3] if alone else [1, 2, 3])


def test_the_calls_after_one_that_is_refused_are_judged() -> None:
    """A function need not take every geometry that a step asks for."""
    loop = Loop.from_text(f"{SHORT} next other:2:17 other:1:16")
    path = path_of(lambda q, k, v, p: stateful.sound(q, k, v, p) * (p[0] != 15), loop)  # type: ignore[arg-type, return-value]
    refuses = dataclasses.replace(
        path, declines=lambda case: "one length" if case.cache_len == 17 else None
    )
    judged = judge_loop(refuses, loop)
    assert (judged.verdict, judged.number) == (Verdict.WRONG, 4)


def test_an_output_that_lies_in_an_input_is_no_earlier_output() -> None:
    """It changes when the harness changes the input."""
    loop = Loop.from_text("S=4,pos=0,D=16 jump:0 query jump:0")
    path = path_of(lambda q, k, v, p: v[:, :, :1], loop)
    assert judge_loop(path, loop).findings == ()


def test_steps_have_help_and_words_without_blanks() -> None:
    """They stand in a line, and docs/check.md lists each of them."""
    for word, kind in STEPS.items():
        assert word == kind.name and word.isalpha() and kind.help
        assert Step.from_text(":".join([word, *("1" for _ in kind.types)])).calls == 1


def _readings(*held: int, start: int = 15) -> dict[int, dict[str, int]]:
    """Bytes held after 15, 30, 60, ... calls."""
    return {start * 2**i: {"bytes of memory": n} for i, n in enumerate(held)}


def test_what_grows_with_every_call_is_told_from_what_is_bounded() -> None:
    """Whatever its size: a workspace, a cache of some entries, a pool, and noise end or vary."""
    leaks = [[1000 + 4096 * n for n in (15, 30, 60, 120, 240)], [0, 15, 45, 105, 225]]
    bounded = [
        [0, 0, 0, 0, 0],
        [2**30] * 5,
        [0, 2**20, 2**21, 2**22, 2**22],
        [0, 2**30, 2**30, 2**30, 2**30],
        [0, 4096, 4096, 8192, 12288],
        [0, 4096, 8192, 12288, 16384],
        [9, 8, 7, 6, 5],
    ]
    for held in leaks:
        assert growth(_readings(*held), end=True) is not None, held
        assert growth(_readings(*held), end=False) is None, held
        assert growth(_readings(*held[:4]), end=True) is None, held
    for held in bounded:
        assert growth(_readings(*held), end=True) is None, held
    resident = {n: {"bytes of resident memory": 197 * n} for n in (15, 30, 60, 120, 240)}
    assert growth(resident, end=True) is None
    assert growth({n: {"bytes of resident memory": 4096 * n} for n in resident}, end=True)
    many = [2**20 * n for n in (15, 30, 60, 120, 240, 480)]
    assert growth(_readings(*many), end=False) is not None
    assert checkpoints(1000)[-5:] == (62, 125, 250, 500, 1000)
