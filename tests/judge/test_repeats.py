"""Repeats: a race is found that shows in few of many calls, and shows again."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import cli
from harness.case import DecodeCase
from harness.function.repeats import FEW, MANY, Repeats
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.inputs import Inputs
from harness.paths import Path as DecodePath
from harness.paths import Result
from harness.paths.calls import Call
from harness.verdict import Problem, Verdict, judge
from tests.support import TARGETS
from tests.support.command import check
from tests.support.targets import base

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = DecodeCase.from_text("S=9,pos=4,D=16")
PROBLEM = Problem.of(CASE)
LONG = 600.0  # Seconds that no machine needs, however busy.


class Racing:
    """A sound function that gives other bits, within the budget, in every ``period``-th call."""

    def __init__(self, period: int, change: str = "bits") -> None:
        self.period, self.change, self.calls = period, change, 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Tensor:
        self.calls += 1
        output = base(q, k, v, p)
        if self.calls % self.period:
            return output
        if self.change == "raises":
            raise RuntimeError("only now and then")
        if self.change == "zero":
            return torch.where(output == 0, -output, output)
        if self.change == "shape":
            return output[0]
        return torch.nextafter(output, output + 1)


def path_of(function: Racing) -> DecodePath:
    names = ("query", "key_cache", "value_cache", "input_pos")
    order = ("q", "k", "v", "p")
    return DecodePath(
        "racing",
        "",
        lambda i: Call(function, {o: getattr(i, n) for o, n in zip(order, names, strict=True)}),
        flex=False,
    )


@pytest.mark.parametrize(
    ("change", "verdict", "evidence"),
    [
        ("bits", Verdict.NONDETERMINISTIC, "16 of 16 elements, the first at (0, 0, 0, 0), changed"),
        ("shape", Verdict.NONDETERMINISTIC, "shape is (1, 1, 16), should be (1, 1, 1, 16)"),
        ("raises", Verdict.ERROR, "RuntimeError: only now and then"),
    ],
)
def test_a_race_that_shows_once_in_hundreds_of_calls_is_found(
    change: str, verdict: Verdict, evidence: str
) -> None:
    """With the number of the call that differs; a judgement of a few calls says OK."""
    function = Racing(700, change)
    path = path_of(function)
    judgement = judge(path, PROBLEM)
    assert judgement.verdict is Verdict.OK and judgement.output is not None
    made = function.calls
    found = Repeats("cpu", seconds=LONG).of(path, PROBLEM, judgement.output, 0.0)
    assert [finding.verdict for finding in found] == [verdict]
    assert found[0].evidence.startswith(f"call {700 - made} of the same on the same tensors")
    assert found[0].evidence.split(" tensors: ")[1].startswith(evidence)


def test_the_sign_of_a_zero_is_a_bit() -> None:
    """Repeats compare bits, where other checks compare numbers."""
    idle = Problem.of(CASE.replace(input_pos=(-1,)))
    function = Racing(50, "zero")
    path = path_of(function)
    judgement = judge(path, idle)
    assert judgement.output is not None
    found = Repeats("cpu", seconds=LONG).of(path, idle, judgement.output, 0.0)
    assert [finding.verdict for finding in found] == [Verdict.NONDETERMINISTIC]


def test_repeats_keep_to_their_share_until_one_differs() -> None:
    """The first case is repeated most, then those for which there is time; after a race all."""
    function = Racing(10**9)
    path = path_of(function)
    output = path(PROBLEM.inputs).output
    repeats = Repeats("cpu", seconds=LONG)

    def calls(judged: float) -> int:
        before = function.calls
        repeats.of(path, PROBLEM, output, judged)
        return function.calls - before

    assert calls(0.0) == MANY
    assert calls(0.0) == 0
    repeats.judged = 1e6
    assert calls(0.0) == FEW
    assert calls(2 * LONG) == 0
    function.period, function.calls = 5, 0
    assert calls(0.0) == 5
    repeats.spent = 1e9
    function.period = 10**9
    assert calls(0.0) == MANY


def test_repeats_end_after_the_seconds_of_a_case() -> None:
    """The call that is running then is compared too."""
    function = Racing(10**9)
    path = path_of(function)
    output = path(PROBLEM.inputs).output
    before = function.calls
    assert Repeats("cpu", seconds=0.0).of(path, PROBLEM, output, 0.0) == []
    assert function.calls - before == 1


def test_a_function_that_keeps_something_is_not_repeated_on_and_on() -> None:
    """A thousand calls that keep 8 MB each would end in an OOM, which says less than RETAINED."""
    kept: list[Tensor] = []
    function = Racing(10**9)
    plain = path_of(function)

    def keeps(inputs: Inputs) -> Result:
        kept.append(torch.ones(2**21))
        return plain(inputs)

    output = plain(PROBLEM.inputs).output
    path = DecodePath("keeps", "", lambda i: Call(lambda: keeps(i).output, {}), flex=False)
    repeats = Repeats("cpu", seconds=LONG)
    assert repeats.of(path, PROBLEM, output, 0.0) == []
    assert len(kept) < MANY / 10
    before = len(kept)
    assert repeats.of(path, PROBLEM, output, 1e6) == []
    assert len(kept) == before


def test_a_race_is_shrunk_and_shows_again(tmp_path: Path) -> None:
    """The repro's single case is repeated too, in a process where it is the first."""
    file = tmp_path / "a.json"
    options = ("--cache-len", "1:4", "--dtypes", "fp32", "--json", str(file))
    assert check("races", "--seed", "3", *options) == cli.NOT_OK
    found = json.loads(file.read_text())
    assert found["verdict"] == "NONDETERMINISTIC"
    runner = LocalRunner(TargetSpec(f"{TARGETS}:races"))
    runner.repeats.seconds = LONG
    assert runner.run(DecodeCase.from_text(found["case"])).verdict is Verdict.NONDETERMINISTIC
