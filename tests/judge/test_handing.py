"""What a path gets: whatever it does to its inputs, large or small, the problem stays as it is."""

import itertools
from collections.abc import Callable

import pytest
import torch

from harness.case import LAYOUTS, TAILS, DecodeCase
from harness.inputs import Inputs
from harness.inputs.checksum import checksum
from harness.paths import PATHS, Path, Result
from harness.verdict import Judgement, Problem, Verdict, handing, judge
from tests.support.altered import altered, times

CASE = DecodeCase.from_text("S=40,pos=20/7/-1,H=4,Hkv=2,D=16,dtype=bf16,seed=3")
CASES = [
    CASE.replace(layout=layout, tail=tail, probe=probe)
    for layout, tail in itertools.product(LAYOUTS, TAILS)
    for probe in ("none", "needle:30")
]


def unchanged(problem: Problem, before: Inputs) -> bool:
    return not handing.changed_tensors(before, problem.inputs)


def _overwrites_everything(inputs: Inputs, result: Result) -> torch.Tensor:
    for tensor in inputs.tensors.values():
        tensor.fill_(7)
    return result.output


def _overwrites_one_element(inputs: Inputs, result: Result) -> torch.Tensor:
    inputs.key_cache[0, 0, 3, 0] += 1
    return result.output


def _returns_the_value_cache(inputs: Inputs, result: Result) -> torch.Tensor:
    return inputs.value_cache.repeat_interleave(2, 1)[:, :, 5:6]


def _changes_the_shape(inputs: Inputs, result: Result) -> torch.Tensor:
    inputs.key_buffer.squeeze_().t_()
    return result.output


def _in_run(number: int, change: Callable[[Inputs, Result], torch.Tensor]) -> Path:
    """Does it in one run alone, the first being 1."""
    runs = itertools.count(1)
    return altered(lambda i, r: change(i, r) if next(runs) == number else r.output)


def _leaks(inputs: Inputs, result: Result) -> torch.Tensor:
    result.output[0, 0, 0] += inputs.value_cache[0, 0, 30]
    return result.output


PATHS_TRIED: dict[str, Callable[[], Path]] = {
    "sound": lambda: PATHS["fixed"],
    "wrong": lambda: altered(times(1.5)),
    "leaks": lambda: altered(_leaks),
    "overwrites everything": lambda: altered(_overwrites_everything),
    "overwrites one element": lambda: altered(_overwrites_one_element),
    "overwrites in the second run": lambda: _in_run(2, _overwrites_everything),
    "overwrites in the third run": lambda: _in_run(3, _overwrites_everything),
    "one element in the second run": lambda: _in_run(2, _overwrites_one_element),
    "one element in the third run": lambda: _in_run(3, _overwrites_one_element),
    "returns a view": lambda: altered(_returns_the_value_cache),
}


def told(judgement: Judgement) -> list[tuple[Verdict, str]]:
    return [(finding.verdict, finding.evidence) for finding in judgement.findings]


@pytest.mark.rotates(5)
@pytest.mark.parametrize("name", PATHS_TRIED)
def test_a_path_is_judged_alike_on_copies_and_in_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same findings word for word, and the problem has the bits that it had."""
    for case in CASES[::13]:
        problem = Problem.of(case)
        before = problem.inputs.clone()
        monkeypatch.setattr(handing, "IN_PLACE_BYTES", 2**30)
        copies = judge(PATHS_TRIED[name](), problem)
        assert unchanged(problem, before)
        monkeypatch.setattr(handing, "IN_PLACE_BYTES", 0)
        assert told(judge(PATHS_TRIED[name](), problem)) == told(copies), case
        assert unchanged(problem, before)


def test_what_a_path_does_to_its_tensors_is_not_done_to_the_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In place, the memory is shared, shape and strides are not."""
    monkeypatch.setattr(handing, "IN_PLACE_BYTES", 0)
    problem = Problem.of(CASE.replace(input_pos=(20,)))
    shape = problem.inputs.key_buffer.shape
    judge(altered(_changes_the_shape), problem)
    assert problem.inputs.key_buffer.shape == shape


def test_inputs_that_were_changed_since_they_were_drawn_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They could not be put back."""
    monkeypatch.setattr(handing, "IN_PLACE_BYTES", 0)
    inputs = Problem.of(CASE).inputs
    inputs.value_cache.fill_(2)
    problem = Problem.given(inputs)
    assert not handing.in_place(problem, "cpu")
    assert judge(altered(_overwrites_everything), problem).verdict is Verdict.MUTATED
    assert (problem.inputs.value_cache == 2).all()


def test_a_checksum_shows_small_changes() -> None:
    """One bit anywhere, two signs, two elements that change places; and only the memory counts."""
    tensor = torch.randn(5, 7).half()
    before = checksum(tensor)
    seen = {before}
    for place in range(tensor.numel()):
        for change in (lambda x: x ^ 1, lambda x: x ^ -(2**15)):
            other = tensor.clone()
            flat = other.view(-1).view(torch.int16)
            flat[place] = change(flat[place])
            seen.add(checksum(other))
    assert len(seen) == 1 + 2 * tensor.numel()
    negated, swapped = tensor.clone(), tensor.clone()
    negated[[1, 3], 2] *= -1
    swapped[[1, 3]] = swapped[[3, 1]]
    assert before not in (checksum(negated), checksum(swapped))
    assert checksum(tensor.t()) == checksum(tensor[1:]) == before
