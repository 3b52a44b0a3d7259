"""Caches that are written, of the fixed path and of others: programs of a serving loop."""

from __future__ import annotations

import pytest
from torch import Tensor

from harness import cli
from harness.case.program import Program
from harness.function.programs import ProgramResult, check_class
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.serving.caches import FixedPath
from harness.serving.compiled import FixedPathCompiled, FixedPathSplit
from harness.serving.contract import Abilities
from harness.serving.judging import judge_program
from harness.serving.session import CacheClass
from harness.serving.torch_paged import TorchPaged
from harness.strategies.programs import search_programs
from harness.verdict import Verdict
from tests.support.command import command
from tests.support.day import nightly
from tests.support.interpreting import Interpreting

# A geometry on which the split kernel runs where a step has one token, with a last block that is
# not full.
GEOMETRY = Program.from_text("S=700,B=3,pos=0,H=4,Hkv=2,D=16,dtype=bf16")


def searched(target: str, programs: int, geometry: Program | None = None) -> ProgramResult:
    """What a search in this process finds."""
    spec = TargetSpec(target)
    return check_class(
        spec, LocalRunner(spec), lambda text: None, programs=programs, named=geometry
    )


@pytest.mark.parametrize("programs", [20, nightly(400)])
def test_the_fixed_path_holds_over_programs(programs: int) -> None:
    """Eager, in any geometry."""
    result = searched("harness.serving.caches:FixedPath", programs)
    assert result.verdict is Verdict.OK, result.repro
    assert set(result.tally.steps) == {"admit", "decode", "rollback", "reset", "release"}


@pytest.mark.compiles
@pytest.mark.parametrize("programs", [60, nightly(400)])
@pytest.mark.parametrize("cls", [FixedPathCompiled, FixedPathSplit])
def test_the_compiled_fixed_path_holds_over_programs_in_one_graph(
    cls: type[FixedPathCompiled], programs: int
) -> None:
    """Whatever the steps are, and however many objects of the class there were."""
    before = cls.graph.graphs
    result = searched(f"harness.serving.compiled:{cls.__name__}", programs, GEOMETRY)
    assert result.verdict is Verdict.OK, result.repro
    assert result.tally.programs > 30
    # Another test of the class may have compiled it in this process.
    assert cls.graph.graphs == 1 and before <= 1


@pytest.mark.interprets
def test_the_fixed_path_holds_over_a_program_in_triton_kernels(interpreting: Interpreting) -> None:
    """Those of a GPU, interpreted; in one graph."""
    program = (
        "S=160,B=2,pos=0,H=2,Hkv=1,D=16 admit:0:5 admit:1:130 rollback:1/3 decode:1 decode:2/0"
        " reset:0 decode:3/1 release:1 decode:1 admit:1:2 decode:1"
    )
    answer = interpreting.run("served", program)
    assert answer["evidence"] == []
    assert (answer["verdict"], answer["graphs"]) == ("OK", 1)
    assert answer["rows"] == 2 * (5 + 130 + 2 + 2 + 4 + 1 + 2 + 2)
    assert answer["kernels"]


@pytest.mark.parametrize("programs", [10, nightly(200)])
def test_what_pages_torch_leaves_in_its_map_is_found(programs: int) -> None:
    """The finding flex-paged-erase; with the map cleared, torch's paged attention is right."""

    class Cleared(TorchPaged):
        def reset(self, sequences: list[int]) -> None:
            super().reset(sequences)
            self.paged.physical_to_logical[sequences] = -1

    program = Program.from_text("S=2,pos=0,D=16 page:1 admit:0:2 admit:0:1")
    for cls, verdict in ((TorchPaged, Verdict.WRONG), (Cleared, Verdict.OK)):
        assert judge_program(CacheClass(cls, Abilities.of(cls)), program).verdict is verdict
    cache = CacheClass(Cleared, Abilities.of(Cleared))

    def run(drawn: Program) -> None:
        assert judge_program(cache, drawn).verdict is Verdict.OK

    domain = LocalRunner(TargetSpec("harness.serving.torch_paged:TorchPaged")).facts.domain
    search_programs(run, cache.abilities, domain, programs=programs)


def test_a_position_that_moves_while_its_sequence_is_idle_is_found() -> None:
    """Padding then counts as a token."""

    class AdvancesAll(FixedPath):
        def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
            return super().decode(query, key, value, query_lens.clamp(min=1))

    program = Program.from_text("S=9,B=2,pos=0,D=16 decode:1/0 decode:0/1")
    judged = judge_program(CacheClass(AdvancesAll, Abilities.of(AdvancesAll)), program)
    assert judged.verdict is Verdict.WRONG
    assert judged.number == 2


def test_a_checkout_of_gpt_fast_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of it is here."""
    monkeypatch.delenv("GPT_FAST", raising=False)
    target = "harness.serving.gpt_fast_cache:GptFast"
    assert command("check", target, "--no-isolation") == cli.USAGE
    assert "GPT_FAST: set it to the folder of a gpt-fast checkout" in capsys.readouterr().err


@pytest.mark.models
@pytest.mark.parametrize("programs", [60, nightly(300)])
@pytest.mark.parametrize("name", ["DynamicSdpa", "StaticSdpa"])
def test_caches_of_transformers_hold_over_programs(name: str, programs: int) -> None:
    """With SDPA, sliding windows and crops among them."""
    result = searched(f"harness.serving.transformers_caches:{name}", programs)
    assert result.verdict is Verdict.OK, result.repro


@pytest.mark.models
def test_a_static_cache_with_flex_attention_gives_weight_to_empty_slots() -> None:
    """The finding model-static-flex-ahead, as a program of two steps."""
    result = searched(
        "harness.serving.transformers_caches:StaticFlex",
        60,
        Program.from_text("S=3,pos=0,D=16 decode:1 decode:1"),
    )
    assert result.verdict is Verdict.WRONG
    assert "slots-without-token" in result.outcome.names
