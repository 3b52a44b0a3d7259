"""Quantised caches: codes, scales and zero points, exact golden, and faults that are named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import black
import pytest
import torch

from harness import cli
from harness.case import CaseError, DecodeCase
from harness.case.domain import Domain, DomainError
from harness.case.loop import Loop
from harness.case.precision import Precision
from harness.case.quantised import QUANTISED
from harness.function.load import target_path
from harness.inputs import make_inputs
from harness.inputs.quantised import decoded
from harness.oracle.golden import golden
from harness.paths import PATHS
from harness.script.function_script import target_script
from harness.strategies.drawing import domain_cases
from harness.strategies.loops import domain_loops
from harness.verdict import Problem, Verdict, judge
from tests.support import ROOT, quantised_targets
from tests.support.command import command
from tests.support.day import nightly, parts
from tests.support.processes import Preloaded

TARGETS = Path(__file__).parents[1] / "support" / "quantised_targets.py"
DOMAIN = Domain(tuple(quantised_targets.SUPPORTS), (16, 64), (1, 300))
SOUND = {
    "dequantised": None,
    "folded": None,
    "converted": {"bfloat16": "bfloat16", "float16": "float16"},
}
NAMED = {
    "swapped": "scales-swapped",
    "key_scale_twice": "key-scale-twice",
    "value_scale_lost": "value-scale-lost",
    "zero_point_lost": "zero-point-lost",
    "token_scale_one_off": "token-scale-one-off",
    "converted_undeclared": "dequantised-to-dtype",
}

pytestmark = pytest.mark.usefixtures("one_thread")


def cases(count: int, seed: int = 0) -> list[DecodeCase]:
    """Drawn cases with quantised caches."""
    drawn = (case for case in domain_cases(DOMAIN, seed) if case.quantised)
    return list(itertools.islice(drawn, count))


@pytest.mark.parametrize("name", QUANTISED)
def test_the_caches_of_a_case_are_what_its_codes_stand_for(name: str) -> None:
    """Exactly, in float32; codes use most of their range; every kind draws its own scales."""
    case = DecodeCase.from_text(f"S=40,pos=39/20,H=4,Hkv=2,D=16,cache={name},seed=3")
    inputs, kind = make_inputs(case), QUANTISED[name]
    for cache, of in ((inputs.key_cache, "key"), (inputs.value_cache, "value")):
        codes, scale = inputs.stored[f"{of}_codes"], inputs.stored[f"{of}_scale"]
        zero = inputs.stored.get(f"{of}_zero_point", torch.zeros(()))
        assert codes.dtype == getattr(torch, kind.dtype)
        assert scale.shape == {"tensor": (), "head": (2,), "token": (2, 2, 40)}[kind.grain]
        assert (f"{of}_zero_point" in inputs.stored) == kind.zero_point
        assert cache.dtype == torch.float32
        exact = decoded(codes.double(), scale.double(), zero.double()).double()
        assert cache.double().equal(exact)
        assert codes[:, :, :20].float().abs().max() > 20
    assert not inputs.stored["key_scale"].equal(inputs.stored["value_scale"])


def test_scales_do_not_depend_on_the_tail_and_slots_of_the_tail_have_junk() -> None:
    """So that another tail changes no number that a query attends."""
    case = DecodeCase.from_text("S=20,pos=9,D=16,cache=e4m3-token")
    scales = {}
    for tail in ("zeros", "poison", "nan"):
        inputs = make_inputs(case.replace(tail=tail))
        scales[tail] = inputs.stored["key_scale"]
        assert scales[tail][..., :10].equal(make_inputs(case).stored["key_scale"][..., :10])
    assert (scales["poison"][..., 10:] == 64).all()
    assert scales["nan"][..., 10:].isnan().all()
    # What junk stands for is large, and finite in float16.
    for name, kind in QUANTISED.items():
        assert 2**14 <= kind.junk_scale * kind.largest <= torch.finfo(torch.float16).max, name


def test_golden_is_attention_over_what_the_codes_stand_for() -> None:
    """By SDPA in float64, for every kind."""
    for case in cases(40):
        inputs = make_inputs(case)
        for b, position in enumerate(case.input_pos):
            count = position + case.q_len
            key, value = (
                x[b : b + 1, :, :count].double() for x in (inputs.key_cache, inputs.value_cache)
            )
            allowed = torch.ones(case.q_len, count, dtype=torch.bool).tril(position)
            wanted = torch.nn.functional.scaled_dot_product_attention(
                inputs.query[b : b + 1].double(), key, value, attn_mask=allowed, enable_gqa=True
            )
            torch.testing.assert_close(golden(inputs).output[b : b + 1], wanted)


def test_every_kind_is_drawn_where_it_is_declared_and_no_other() -> None:
    """Half of the cases, with long caches, groups and chunks among them."""
    drawn = list(itertools.islice(domain_cases(DOMAIN, 1), 200))
    assert {case.cache for case in drawn} == {"none", *QUANTISED}
    fp8 = list(itertools.islice(domain_cases(Domain(requires=("fp8",)), 1), 60))
    assert {case.cache for case in fp8} == {n for n, k in QUANTISED.items() if k.feature == "fp8"}
    assert {case.cache for case in itertools.islice(domain_cases(Domain(), 1), 60)} == {"none"}


@pytest.mark.rotates(3)
@pytest.mark.parametrize("count", [500, nightly(4000)])
@pytest.mark.parametrize("name", SOUND)
def test_sound_arithmetic_over_quantised_caches_is_never_accused(name: str, count: int) -> None:
    """Dequantised in float32, scales folded into scores and weights, or converted as declared."""
    function = getattr(quantised_targets, name)
    operands = SOUND[name] or {}
    for case in cases(count, 2):
        precision = Precision(operand=operands.get(case.dtype))
        judgement = judge(target_path(name, function, DOMAIN, precision), Problem.of(case))
        assert judgement.verdict is Verdict.OK, (judgement.findings, str(case))


@pytest.mark.rotates(4)
@pytest.mark.parametrize("name", NAMED)
def test_a_fault_of_scales_is_found_and_named(name: str, tmp_path: Path) -> None:
    """At the defaults, within a few examples."""
    file = tmp_path / "a.json"
    arguments = ("--json", str(file), "--no-isolation")
    assert command("check", f"{TARGETS}:{name}", *arguments) == cli.NOT_OK
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["diagnosis"][0] == NAMED[name]
    assert found["examples"] <= 60


def test_a_fault_without_a_model_is_found_all_the_same(tmp_path: Path) -> None:
    """One scale for all heads; it gets a place, and no name."""
    file = tmp_path / "a.json"
    arguments = ("--json", str(file), "--no-isolation")
    assert command("check", f"{TARGETS}:first_head_scales_all", *arguments) == cli.NOT_OK
    found = json.loads(file.read_text(encoding="utf-8"))
    assert "cache=" in found["case"]
    assert "-head" in found["case"]
    assert found["diagnosis"] == []


@pytest.mark.parametrize("names", parts(QUANTISED, 5))
@pytest.mark.parametrize("verdict", [Verdict.WRONG, Verdict.LEAK, Verdict.MUTATED, Verdict.ERROR])
def test_a_script_hands_over_the_same_codes_and_scales(
    verdict: Verdict, names: list[str], tmp_path: Path, preloaded: Preloaded
) -> None:
    """Exit 0 for a sound function, 1 where scales are swapped."""
    for name in names:
        case = DecodeCase.from_text(
            f"S=9,pos=3/8,H=4,Hkv=2,D=16,dtype=fp16,cache={name},seed=5,tail=poison"
        )
        for target in ("dequantised", "swapped"):
            script = tmp_path / f"{target}.py"
            shown = target_script(f"{TARGETS}:{target}", case, "cpu", verdict)
            assert black.format_str(shown, mode=black.Mode()) == shown
            script.write_text(shown, encoding="utf-8")
            ran = preloaded.run(script, folder=tmp_path, path=[ROOT])
            wrong = target == "swapped" and verdict is Verdict.WRONG
            assert ran.returncode == int(wrong), (name, ran.stdout, ran.stderr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S=8,pos=3,cache=fp4", "cache (cache): 'fp4' is not one of none e4m3-tensor e4m3-head"),
        ("S=8,pos=3,cache=int8-head,layout=bshd", "cache: int8-head needs contiguous caches"),
        ("S=8,pos=3,cache=int8-head,probe=needle:1", "goes with probe=none or uniform"),
        ("S=8,pos=3,cache=int8-head,tail=nan", "cache: int8-head goes with finite tails alone"),
    ],
)
def test_what_a_quantised_cache_cannot_be_is_refused(text: str, message: str) -> None:
    """With the field and what is allowed."""
    with pytest.raises(CaseError) as error:
        DecodeCase.from_text(text)
    assert message in str(error.value)


def test_a_loop_and_a_path_of_torch_refuse_quantised_caches() -> None:
    """They say so; none is drawn."""
    case = DecodeCase.from_text("S=8,pos=3,D=16,cache=int8-head")
    with pytest.raises(CaseError, match="cache=int8-head is not written token by token"):
        Loop.from_text(f"{case} next")
    assert list(domain_loops(Domain(requires=("int8",)), 0, lambda: 0)) == []
    for path in PATHS.values():
        assert path.refuses(case) == "takes no cache=int8-head"


@pytest.mark.parametrize(
    "requires", [("fp8", "int8"), ("strided", "fp8"), ("nonfinite_tail", "int8")]
)
def test_requirements_that_no_case_meets_are_refused(requires: tuple[str, ...]) -> None:
    """Both are named."""
    with pytest.raises(DomainError, match=" and "):
        Domain(requires=requires)
