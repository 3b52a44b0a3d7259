"""What loses more bits than it declares is IMPRECISE, by its right name; what does not, never."""

import json
from pathlib import Path

import pytest

from harness import cli
from harness.case import DTYPES, DecodeCase
from harness.case.precision import Precision
from harness.verdict import Problem
from harness.verdict.imprecise import Precise, evidence, precise
from harness.verdict.precision import Counts, count
from tests.support import ROOT
from tests.support.command import command
from tests.support.day import parts
from tests.support.imprecise import IMPRECISE, Arithmetic, rounding_weights
from tests.support.sound import SOUND

SHAPES = ("S=60,pos=59", "S=250,pos=249,logits=x5", "S=500,pos=499,seed=1", "S=30,pos=29,seed=2")
MINE = f"{ROOT / 'tests' / 'support' / 'imprecise_targets.py'}"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def problems() -> dict[str, list[Problem]]:
    """The problems of each dtype."""
    texts = {dtype: [f"{shape},H=64,D=32,dtype={dtype}" for shape in SHAPES] for dtype in DTYPES}
    return {d: [Problem.of(DecodeCase.from_text(t)) for t in ts] for d, ts in texts.items()}


def found(problems: list[Problem], arithmetic: Arithmetic, precision: Precision) -> Precise:
    """What the counts of these problems say of an arithmetic."""
    counts = Counts()
    for p in problems:
        i = p.inputs
        output = arithmetic(i.query, i.key_cache, i.value_cache, i.input_pos)
        counts += count(p, output, precision)
    [one] = precise(counts)
    return one


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("name", IMPRECISE)
def test_an_undeclared_step_is_imprecise_by_its_name(
    name: str, rounds: bool, problems: dict[str, list[Problem]]
) -> None:
    """Whether or not weights are rounded too, as the default permits."""
    arithmetic, dtype, step = IMPRECISE[name]
    if rounds:
        arithmetic = rounding_weights(arithmetic, dtype)
    one = found(problems[dtype], arithmetic, Precision())
    assert one.imprecise
    assert step in evidence(one)


@pytest.mark.parametrize("name", ["scores", "query"])
def test_a_declared_step_is_not_imprecise(name: str, problems: dict[str, list[Problem]]) -> None:
    """The same arithmetic, with its declaration."""
    declared = {"scores": Precision(score="bfloat16"), "query": Precision(operand="bfloat16")}
    arithmetic, dtype, _ = IMPRECISE[name]
    assert not found(problems[dtype], arithmetic, declared[name]).imprecise


@pytest.mark.parametrize("names", parts(SOUND, 4))
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_sound_function_may_do_is_never_imprecise(
    dtype: str, names: list[str], problems: dict[str, list[Problem]]
) -> None:
    """Each sound implementation by its own declaration, each below half of the limit."""
    for path in map(SOUND.__getitem__, names):
        counts = Counts()
        for p in problems[dtype]:
            counts += count(p, path(p.inputs).output, path.precision)
        [one] = precise(counts)
        assert one.strength is not None
        assert one.strength < 1 / 2, path.name


def test_few_rows_are_not_judged(problems: dict[str, list[Problem]]) -> None:
    """However far they are off; the figures are there."""
    few = Problem.of(DecodeCase.from_text("S=60,pos=59,H=16,D=32,dtype=bf16"))
    one = found([few], IMPRECISE["sums-one-by-one"][0], Precision())
    assert one.strength is None
    assert not one.imprecise
    assert (one.all.rows, one.all.elements) == (16, 512)
    assert one.needed > 16


def test_check_says_imprecise_and_one_case_shows_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, by the step's name; the printed case alone is IMPRECISE too, without a script;
    allowed, it is OK with the figures."""
    target, file = f"{MINE}:log2_e", tmp_path / "a.json"
    few = ("--max-examples", "24", "--cache-len", "1:60", "--no-isolation", "--json", str(file))
    assert command("check", target, *few) == cli.NOT_OK
    text, result = capsys.readouterr().out, json.loads(file.read_text())
    assert text.startswith("IMPRECISE ")
    assert result["precision"]["bfloat16"]["imprecise"]
    assert "log2(e) is rounded to float16" in " ".join(text.split())
    script = tmp_path / "a.py"
    again = ("--case", result["case"], "--no-isolation", "--script", str(script))
    assert command("check", target, *again) == cli.NOT_OK
    assert capsys.readouterr().out.startswith("IMPRECISE ")
    assert not script.exists()
    assert command("check", target, *few, "--allow", "imprecise") == cli.OK
    text, result = capsys.readouterr().out, json.loads(file.read_text())
    assert text.startswith("OK ")
    assert "IMPRECISE, allowed: bfloat16" in " ".join(text.split())
    assert result["precision"]["bfloat16"]["imprecise"]


def test_a_case_without_rows_says_that_precision_is_not_judged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Not a word of praise for what was not looked at."""
    case = ("--case", "S=4,pos=1,D=32,dtype=bf16", "--no-isolation")
    assert command("check", f"{MINE}:log2_e", *case) == cli.OK
    assert "precision not judged: 0 elements" in capsys.readouterr().out
