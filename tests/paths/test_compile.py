"""The only caller of torch.compile counts its graphs and never falls back to eager."""

import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported
from torch._inductor import cpp_builder, exc
from torch._inductor.utils import run_and_get_code
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from harness.case import DecodeCase
from harness.inputs import make_inputs
from harness.paths import PATHS
from harness.paths.compile import Compiled, why_not
from harness.verdict import Problem, Verdict, judge
from harness.verdict.known_failures import split_decode
from tests.support import CALLABLES, ROOT


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_graphs_are_counted_per_function_object() -> None:
    """Two geometries of one function do not see each other's graphs."""
    first, second = (Compiled(_double, dynamic=False, backend="eager") for _ in range(2))
    for n in (2, 3, 3, 4):
        first(torch.ones(n))
    second(torch.ones(2))
    assert (first.graphs, second.graphs) == (3, 1)


def test_too_many_graphs_raise_instead_of_running_eagerly() -> None:
    """Past the recompile limit torch would go on without compiling, silently."""
    compiled = Compiled(_double, dynamic=False, backend="eager", recompile_limit=2)
    compiled(torch.ones(2))
    compiled(torch.ones(3))
    with pytest.raises(FailOnRecompileLimitHit):
        compiled(torch.ones(4))


def test_a_graph_break_raises() -> None:
    """A function that cannot be one graph is refused."""

    def breaks(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x

    with pytest.raises(Unsupported):
        Compiled(breaks, dynamic=False, backend="eager")(torch.ones(2))


def test_a_missing_compiler_is_unsupported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled paths never pass silently."""

    def search(_: object = None) -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", search)
    why_not.cache_clear()
    try:
        case = DecodeCase.from_text("S=20,pos=9,mode=compiled")
        judgement = judge(PATHS["full-cache"], Problem.of(case))
    finally:
        why_not.cache_clear()
    assert judgement.verdict is Verdict.UNSUPPORTED
    assert "install g++" in judgement.findings[0].evidence


@pytest.mark.rotates(3)
@pytest.mark.parametrize(
    ("compiler", "count"), [("/nonexistent", 4), ("/etc/passwd", 1), ("true", 1)]
)
def test_without_a_compiler_commands_say_unsupported_and_why(compiler: str, count: int) -> None:
    """One that is not there, may not be run, or compiles nothing; of all paths, of a function that
    is to be compiled and of one that compiles by itself."""
    small = "S=2,pos=1,D=16"
    here = ["--case", small, "--no-isolation"]
    commands = [
        ["check", f"{CALLABLES}:compiles", *here],
        ["check", f"{CALLABLES}:instance", *here, "--compile", "--dtypes", "fp32"],
        ["repro", f"{small},mode=compiled"],
        ["audit", "gpt-fast", "--compile"],
    ][:count]
    code = "import sys; from harness.cli import main; print([main(a) for a in eval(sys.argv[1])])"
    ran = subprocess.run(
        [sys.executable, "-c", code, repr(commands)],
        check=False,
        env=os.environ | {"CXX": compiler},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines()[-1] == str([2] * count), ran.stderr
    said = " ".join((ran.stdout + ran.stderr).split())
    assert said.count("set CXX to a working compiler") >= count, said
    assert "Traceback" not in ran.stderr
    assert "WRONG" not in ran.stdout and "ERROR" not in ran.stdout


@pytest.mark.compiles
def test_compiled_flex_attention_is_one_graph_for_all_positions() -> None:
    """The position is captured as a tensor: eight positions, one graph, all of them right."""
    case = DecodeCase.from_text("S=300,pos=0,H=2,D=32,mode=compiled")
    path = PATHS["full-cache"]
    for position in (0, 1, 127, 128, 129, 255, 256, 299):
        at = case.replace(input_pos=(position,))
        judgement = judge(path, Problem.of(at))
        assert judgement.verdict is Verdict.OK, judgement.findings
    assert path.graphs(case) == 1


def _attend(query: torch.Tensor, cache: torch.Tensor, block_mask: BlockMask) -> torch.Tensor:
    return flex_attention(query, cache, cache, block_mask=block_mask)


def _step(kind: str, position: int) -> tuple[torch.Tensor, torch.Tensor, BlockMask]:
    """A decode step whose mask holds its position as an int or a tensor, or whose cache is cut."""
    length = position + 1 if kind == "sliced" else 300
    offset = position if kind == "int" else torch.tensor(position)

    def causal(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        return kv <= q + offset

    mask = create_block_mask(causal, B=None, H=None, Q_LEN=1, KV_LEN=length, device="cpu")
    return torch.ones(1, 1, 1, 16), torch.ones(1, 1, 300, 16)[:, :, :length], mask


@pytest.mark.parametrize(("kind", "graphs"), [("int", 6), ("tensor", 1), ("sliced", 6)])
def test_graphs_over_positions(kind: str, graphs: int) -> None:
    """A position in a tensor is one graph; as an int, or as a slice's length, one graph each."""
    compiled = Compiled(_attend, dynamic=False, backend="eager", recompile_limit=6)
    for position in range(125, 131):
        compiled(*_step(kind, position))
    assert compiled.graphs == graphs


@pytest.mark.rotates(2)
@pytest.mark.parametrize("kind", ["int", "sliced"])
def test_the_ninth_position_does_not_fall_back_to_eager(kind: str) -> None:
    """torch's own limit is 8 graphs; here the next one raises."""
    compiled = Compiled(_attend, dynamic=False, backend="eager")
    for position in range(120, 128):
        compiled(*_step(kind, position))
    with pytest.raises(FailOnRecompileLimitHit):
        compiled(*_step(kind, 128))


@pytest.mark.compiles
@pytest.mark.parametrize(
    "text",
    [
        "S=512,pos=300,D=16,mode=compiled",
        "S=511,pos=300,D=16,mode=compiled",
        "S=512,B=2,pos=300,D=16,mode=compiled",
        "S=512,pos=300,D=16,block=256,mode=compiled",
        "S=512,pos=300,D=16,mode=compiled,dynamic=yes",
    ],
)
def test_which_kernel_runs_is_known(text: str) -> None:
    """Split-KV decoding or the general kernel, told from the code that was generated."""
    case = DecodeCase.from_text(text)
    call = PATHS["full-cache"].prepare(make_inputs(case))
    compiled = Compiled(call.function, dynamic=case.dynamic)
    with torch.no_grad():
        _, sources = run_and_get_code(compiled, **call.arguments)
    assert ("num_partitions" in "".join(sources)) == split_decode(case)
