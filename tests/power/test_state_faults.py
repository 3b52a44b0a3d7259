"""Faults of state: each is found, soon, as a short program; the classes they are planted in are
sound."""

from __future__ import annotations

import json
import statistics

import pytest

from harness.case.program import ACTIONS, Program
from harness.function.programs import ProgramResult, check_class
from harness.function.run import LocalRunner
from harness.function.spec import TargetSpec
from harness.serving.contract import contract
from harness.serving.faults import STATE_FAULTS, StateFault
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.day import nightly, rotated

pytestmark = pytest.mark.usefixtures("unhurried")

PROGRAMS = 200
RECORDED = {
    row["fault"]: row
    for row in json.loads((ROOT / "fixtures" / "state-faults.json").read_text(encoding="utf-8"))
}
SOON = 20
SOUND = ("caches:DenseCache", "caches:RingCache", "pages:GatheredPages", "faults:CompactPages")


def searched(target: str, *, seed: int = 0) -> ProgramResult:
    """What a search in this process finds."""
    spec = TargetSpec(f"harness.serving.{target}")
    return check_class(spec, LocalRunner(spec), lambda text: None, programs=PROGRAMS, seed=seed)


@pytest.mark.parametrize("seed", [0, nightly(1), nightly(2)])
@pytest.mark.parametrize("fault", rotated(STATE_FAULTS, 3), ids=lambda fault: fault.name)
def test_a_fault_of_state_is_found_as_a_short_program(fault: StateFault, seed: int) -> None:
    """Within 200 programs, and about as soon as recorded; at most 6 steps; it stays found when the
    seed changes."""
    result = searched(f"faults:{fault.cls.__name__}", seed=seed)
    assert result.verdict in (Verdict.WRONG, Verdict.NONFINITE)
    assert result.tried <= PROGRAMS
    assert result.program is not None
    assert len(result.program.steps) <= 6
    if not seed:
        assert result.tried <= max(2 * RECORDED[fault.name]["programs"], SOON)


def test_the_median_fault_is_found_among_the_first_programs() -> None:
    """Of all that are recorded, of which the test above runs a part again."""
    assert statistics.median(row["programs"] for row in RECORDED.values()) <= SOON


@pytest.mark.parametrize("name", SOUND)
def test_the_classes_in_which_they_are_planted_are_sound(name: str) -> None:
    """So that what is found is the fault."""
    result = searched(name)
    assert result.verdict is Verdict.OK
    assert result.tally.programs > PROGRAMS // 2


def test_the_docs_name_every_fault_method_and_step() -> None:
    """And what is recorded of the faults is that table."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [*RECORDED] == [fault.name for fault in STATE_FAULTS]
    for row in RECORDED.values():
        assert f"| {row['fault']} | {row['programs']} | {row['program']} |" in text
        assert Program.from_text(row["text"]).sentence == row["program"]
    for signature, meaning in contract():
        assert f"| `{signature}` | {meaning.replace('``', '`').replace('[', '`[')[:20]}" in text
    for kind in ACTIONS.values():
        assert f"| `{kind.form}` | " in text
