"""Power: every planted fault is caught, and no sound path is accused."""

import functools
import statistics

import pytest
import torch
from hypothesis import settings

from harness.case import DTYPES, DecodeCase
from harness.diagnosis.suspects import diagnose
from harness.faults import FAULTS, Fault, FaultKind
from harness.faults.kill_matrix import kill_matrix, measure_power, stored
from harness.faults.mutants import MODEL, Scope, mutant
from harness.paths import PATHS, Path
from harness.strategies.paths import fit, fitted, sampled_cases
from harness.verdict import Problem, Verdict, contract, judge
from tests.support import NIGHTLY

pytestmark = pytest.mark.usefixtures("untraced")

GOAL = 25  # examples, at the median
EXAMPLES = 2000 if NIGHTLY else 600


@functools.cache
def cases(count: int, run: int) -> list[DecodeCase]:
    """Drawn once for all tests here."""
    return sampled_cases(count, run)


def quiet(text: str) -> None:
    """No progress."""


def test_the_faults_cover_every_fault_model() -> None:
    """1 to 44, each with its report, its remedy, and a name of its own."""
    assert {fault.number for fault in FAULTS.values()} == set(range(1, 45))
    assert all(f.summary and f.remedy and f.source for f in FAULTS.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_mutant_is_killed(dtype: str) -> None:
    """Planted in all rows, one sequence, one head or block edges; by day one scope a fault."""
    if NIGHTLY:
        matrix = measure_power(list(FAULTS.values()), [dtype], EXAMPLES, 0, quiet)
        assert matrix.false_alarms == []
        cells = matrix.cells
    else:
        # A third of the faults each dtype, in turn: all of them every day, once.
        chosen = list(FAULTS.values())[DTYPES.index(dtype) :: len(DTYPES)]
        cells = kill_matrix(chosen, [dtype], cases(EXAMPLES, 0), quiet, (Scope.ALL, Scope.HEAD))
    assert [f"{c.fault}@{c.scope}" for c in cells if c.killed_by is None] == []
    assert statistics.median(c.examples for c in cells if c.kind is FaultKind.OUTPUT) <= GOAL


def test_the_sound_model_is_never_accused() -> None:
    """The matrix means nothing if its path without a fault fails too."""
    for dtype in DTYPES:
        for problem in fitted(cases(settings().max_examples, 7), MODEL, dtype=dtype):
            judgement = judge(MODEL, problem)
            assert judgement.verdict is Verdict.OK, (judgement.findings, str(problem.case))


@pytest.mark.parametrize("name", [n for n, path in PATHS.items() if not path.known_wrong])
def test_a_sound_path_keeps_the_contract(name: str) -> None:
    """One graph for all positions, no state between calls."""
    path = PATHS[name]
    assert contract.broken(path) == {}


def test_each_contract_check_catches_the_fault_that_it_is_for() -> None:
    """And says what it saw."""
    caught = {
        fault.name: next(iter(contract.broken(mutant(fault))))
        for fault in FAULTS.values()
        if fault.kind is FaultKind.CONTRACT
    }
    assert caught == {
        "int-position": "one graph for all positions",
        "captured-tensor-baked-in": "positions in turn",
        "specialised-on-first-length": "cache lengths in turn",
        "block-mask-mutated": "the same call twice",
    }


def test_a_fault_in_one_head_leaves_all_other_rows_alone() -> None:
    """Scopes are what they say."""
    case = DecodeCase.from_text("S=64,pos=40/50,H=4,D=16,block=16,tail=poison")
    problem = Problem.of(case)
    sound = MODEL(problem.inputs).output
    for scope, rows in ((Scope.HEAD, {(1, 2)}), (Scope.SEQUENCE, {(1, h) for h in range(4)})):
        broken = mutant(FAULTS["no-mask"], scope)(problem.inputs).output
        changed = (broken != sound).any(-1).squeeze(-1).nonzero().tolist()
        assert {tuple(row) for row in changed} == rows


def drawn_failure(path: Path, dtype: str, *, quantised: bool = False) -> Problem | None:
    """The first drawn case on which a path fails."""
    drawn = cases(EXAMPLES, 0)
    for problem in fitted(stored(drawn) if quantised else drawn, MODEL, dtype=dtype):
        if not judge(path, problem).verdict.passes:
            return problem
    return None


DIAGNOSED = [f for f in FAULTS.values() if f.path is None]


def diagnosed(fault: Fault, scope: Scope, dtype: str) -> tuple[str, ...]:
    """What the diagnosis calls a mutant, from its first failure."""
    path = mutant(fault, scope)
    problem = drawn_failure(path, dtype, quantised=fault.quantised)
    assert problem is not None
    others = stored(cases(200, 1)) if fault.quantised else cases(200, 1)
    further = [fit(case, MODEL, dtype=dtype) for case in others]
    return diagnose(path, problem, "cpu", further).names


def planted_alike(one: str, other: str, scope: Scope, dtype: str) -> bool:
    """Whether two faults are one and the same where they are planted: the sequence after the last
    is the first."""
    a, b = (mutant(FAULTS[name], scope) for name in (one, other))
    return all(
        torch.equal(a(problem.inputs).output, b(problem.inputs).output)
        for problem in fitted(cases(200, 1), MODEL, dtype=dtype)
        if problem.case.tail_kind.finite
    )


@pytest.mark.parametrize("scope", list(Scope) if NIGHTLY else [Scope.ALL])
@pytest.mark.parametrize("dtype", DTYPES if NIGHTLY else ["float32"])
def test_mutants_get_their_own_name_and_none_a_false_one(dtype: str, scope: Scope) -> None:
    """At least 9 of 10 their own or that of their class; by day a sixth of them."""
    possible = [f for f in DIAGNOSED if not (f.narrow and dtype == "float32")]
    chosen = possible if NIGHTLY else possible[::6]
    named, false = 0, []
    for fault in chosen:
        names = diagnosed(fault, scope, dtype)
        right = fault.name in names or any(
            planted_alike(fault.name, name, scope, dtype) for name in names
        )
        named += right
        false += [(fault.name, names)] if names and not right else []
    assert false == []
    assert named >= 0.9 * len(chosen)
