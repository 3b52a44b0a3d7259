"""The gate: red for every kind of failure, never green for what was not run."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path as File
from xml.etree import ElementTree

import pytest
import torch

from harness import cli
from harness.case.kept import FOLDER, keep
from harness.case.kept import load as load_case
from harness.faults import kill_matrix as kill
from harness.gate import steps as gate
from harness.gate import text as gate_report
from harness.gate.item import Item, Paths, Step
from harness.gate.proof import WRONG_PATH, proofs
from harness.gate.steps import Gate
from harness.inputs import Inputs
from harness.ledger.entries import Ledger, ledger_file, load
from harness.paths import PATHS, Path
from harness.paths.calls import Call
from harness.verdict import Judgement, Problem, Verdict
from tests.support import ROOT
from tests.support.altered import altered, times
from tests.support.gates import quick
from tests.support.processes import Preloaded

PROOF, KEPT, CONTRACT, PROBES, LEDGER, _, COMPILED_GEOMETRIES, _, _ = gate.PLAN


@pytest.fixture
def broken_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed path, a hundredth too large."""
    path = dataclasses.replace(altered(times(1.01)), name="fixed")
    monkeypatch.setitem(PATHS, "fixed", path)


def test_a_clean_tree_is_green(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step ran, and says how many verdicts it stands for."""
    run = quick(monkeypatch, PROOF, KEPT, CONTRACT, PROBES)
    assert run.failures == []
    assert run.cut == []
    assert all(step.counted for step in run.steps)
    assert gate_report.headline(run, False).startswith("GREEN")


def test_a_step_without_time_does_one_thing_and_the_run_is_incomplete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was left out is said in each form, and is no pass."""
    run = quick(monkeypatch, PROOF, KEPT, PROBES, seconds=0.0)
    assert all(step.counted for step in run.steps)
    # Of the proof there is one planted fault here, which is all of it.
    assert [step.name for step in run.cut] == [KEPT, PROBES]
    assert gate_report.headline(run, False).startswith("INCOMPLETE")
    assert "- kept cases: no time for " in gate_report.to_markdown(run, "", False)
    document = json.loads(gate_report.to_json(run, "", False))
    assert not document["passed"]
    assert list(document["incomplete"]) == [KEPT, PROBES]
    skipped = ElementTree.fromstring(gate_report.to_junit(run, "", False)).iter("skipped")
    assert "no time for" in " ".join(str(element.get("message")) for element in skipped)


@pytest.mark.parametrize(
    ("failed", "cut", "options", "code"),
    [
        (False, "", [], cli.OK),
        (False, "half", [], cli.INCOMPLETE),
        (False, "half", ["--accept-incomplete"], cli.OK),
        (True, "half", ["--accept-incomplete"], cli.NOT_OK),
    ],
)
def test_an_incomplete_run_has_an_exit_code_that_a_team_may_accept(
    failed: bool, cut: str, options: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure stays one."""

    def some(self: Gate, step: Step) -> Iterator[Item]:
        step.counted, step.cut = 1, cut
        yield Item("one", Verdict.WRONG if failed else Verdict.OK)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gate, "PLAN", {PROOF: (some, 1)})
    assert cli.main(["gate", "--no-isolation", *options]) == code


def test_a_step_hands_on_what_it_leaves_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of three may take its part, the last all that is left."""
    given: list[float] = []

    def some(self: Gate, step: Step) -> Iterator[Item]:
        given.append(step.left / self.left)
        yield Item("one")

    monkeypatch.setattr(gate, "PLAN", {"a": (some, 1), "b": (some, 1), "c": (some, 2)})
    # So long that a pause of a busy machine is no part of it.
    Gate("cpu", 1e7, 0, None, lambda text: None, isolated=False).run()
    assert given == pytest.approx([1 / 4, 1 / 3, 1], rel=1e-3)


@pytest.mark.compiles
def test_a_compiled_path_that_is_wrong_is_found_or_the_run_is_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no mask; were it right, this run could not see what is wrong in compiled code."""
    paths = Paths("cpu", isolated=False)
    [found] = proofs(WRONG_PATH, paths, 0, "cpp")
    assert not found.failed
    assert found.evidence.endswith("as it should be")
    monkeypatch.setitem(PATHS, WRONG_PATH, dataclasses.replace(PATHS["fixed"], name=WRONG_PATH))
    [missed] = proofs(WRONG_PATH, Paths("cpu", isolated=False), 0, "cpp")
    assert missed.failed
    assert missed.evidence.endswith("this run cannot see it")


@pytest.mark.compiles
def test_a_path_that_is_wrong_where_it_is_compiled_alone_is_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the compiled geometries, in whatever order; no eager case can show it."""
    sound = PATHS["fixed"]

    def prepare(inputs: Inputs) -> Call:
        call = sound.prepare(inputs)
        if inputs.case.mode == "eager":
            return call
        return dataclasses.replace(call, function=lambda **given: call.function(**given) * 1.01)

    monkeypatch.setitem(PATHS, "fixed", dataclasses.replace(sound, prepare=prepare))
    run = quick(monkeypatch, PROBES, COMPILED_GEOMETRIES, seconds=0.0)
    assert [step.name for step in run.steps if step.failures] == [COMPILED_GEOMETRIES]
    [counts] = (i.evidence for i in run.steps[-1].items if i.notice)
    assert counts.startswith("1 of 16 geometries of the tests, 0 others")


def test_the_proof_that_a_run_can_fail_comes_first() -> None:
    """Whatever there is time for, a run that could not fail says so."""
    assert PROOF == "proof that this run can fail"


def test_a_fault_in_the_code_is_red_within_the_minute_and_named(
    tmp_path: File, preloaded: Preloaded
) -> None:
    """A copy of the package with one character more in the fixed path's mask."""
    shutil.copytree(
        ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / FOLDER).mkdir(parents=True)
    # The first thing that its step does, for which there is time on any machine, shows it.
    kept = load_case(ROOT / FOLDER / "block-edge-last.json")
    keep(dataclasses.replace(kept, path="fixed"), tmp_path / FOLDER)
    module = tmp_path / "harness" / "decoding" / "block_mask.py"
    sound = module.read_text(encoding="utf-8")
    assert sound.count("visible = kv_idx <= t\n") == 1
    broken = sound.replace("visible = kv_idx <= t\n", "visible = kv_idx <= t + 1\n")
    module.write_text(broken, encoding="utf-8")
    # A busy machine may need longer than a gate lets it.
    plan = tmp_path / "harness" / "gate" / "steps.py"
    plan.write_text(
        plan.read_text().replace(
            "LEAST_OVER, REPORT = 0.1, 15.0", "LEAST_OVER, REPORT = 0.1, 900.0"
        )
    )
    command = ["-m", "harness", "gate", "--budget", "20s", "--no-isolation"]
    outputs = ["--junit", "junit.xml", "--markdown", "summary.md", "--json", "gate.json"]
    done = preloaded.run(*command, *outputs, folder=tmp_path)
    assert done.returncode == 1, done.stderr[-2000:]
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "RED" in summary.splitlines()[0]
    assert "offset-one-high" in summary
    assert "python -m harness gate --device cpu --budget 20s --seed 0" in summary
    assert json.loads((tmp_path / "gate.json").read_text())["failures"]
    failed = ElementTree.parse(tmp_path / "junit.xml").getroot().iter("failure")
    assert {element.get("type") for element in failed} <= {"LEAK", "WRONG"}
    # There was no time for all of the steps: that is said, and is no success of theirs.
    assert "no time for" in summary


def test_a_wrong_path_is_red_in_every_step_that_runs_it(
    monkeypatch: pytest.MonkeyPatch, broken_path: None
) -> None:
    """Contract and probes; kept cases are in the test above."""
    run = quick(monkeypatch, CONTRACT, PROBES)
    assert all(step.failures for step in run.steps)
    assert {item.path for item in run.failures if item.path} == {"fixed"}


def test_a_run_that_cannot_fail_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that finds nothing lets planted faults live."""

    def blind(path: Path, problem: Problem, device: str = "cpu") -> Judgement:
        return Judgement(path.name, problem.case, device)

    monkeypatch.setattr(kill, "judge", blind)
    run = quick(monkeypatch, PROOF)
    assert run.failures
    assert "this run cannot see it" in run.failures[0].evidence


def test_a_regression_against_the_ledger_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even within budget; and no ledger is said aloud."""
    run = quick(monkeypatch, LEDGER)
    assert run.steps[0].items[0].not_run == "there is no ledger for this device"
    version = torch.__version__.partition("+")[0]
    key, entry = next(
        (key, entry)
        for key, entry in load(ROOT / ledger_file("cpu")).entries.items()
        if key[:4] == ("sdpa-full", "float32", "eager", "x5") and entry.torch == version
    )
    better = dataclasses.replace(entry, worst_utilisation=entry.worst_utilisation / 4)
    monkeypatch.setattr("harness.ledger.measure.PATHS", {"sdpa-full": PATHS["sdpa-full"]})
    monkeypatch.setattr("harness.ledger.measure.hardware", lambda device: entry.hardware)
    run = quick(monkeypatch, LEDGER, ledger=Ledger({key: better}))
    assert [item.verdict for item in run.failures] == [Verdict.REGRESSED]
    assert any(item.notice and "no record" in item.evidence for item in run.steps[0].items)


@pytest.mark.parametrize("verdict", [v for v in Verdict if not v.passes])
def test_every_bad_verdict_is_red(verdict: Verdict) -> None:
    """Out of memory is no skip, a crash no pass."""
    assert Item("a path", verdict).failed


def test_nothing_judged_is_not_green(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty run says so."""
    run = quick(monkeypatch)
    assert gate_report.headline(run, False).startswith("NOTHING JUDGED")


def test_an_interrupted_gate_tells_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: File, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 130, and a summary that does not say green."""

    def interrupted(self: Gate, step: Step) -> Iterator[Item]:
        yield Item("one")
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(gate, "PLAN", {KEPT: (interrupted, 1)})
    summary = tmp_path / "summary.md"
    command = ["gate", "--no-isolation", "--markdown", str(summary)]
    assert cli.main(command) == cli.INTERRUPTED
    assert summary.read_text().startswith("## Decoding gate: INTERRUPTED")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "--budget: 'soon' is not a time"),
        (["--budget", "0"], "--budget: '0'"),
        (["--device", "tpu"], "--device: 'tpu'"),
        (["--seed", "-1"], "--seed: '-1'"),
        (["--against", "no.json"], "--against: no.json: there is no such file"),
        (["--junit", "/no/such/a.xml"], "there is no directory"),
    ],
)
def test_bad_usage_is_one_clear_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 2, before any work."""
    monkeypatch.chdir(ROOT)
    assert cli.main(["gate", *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_is_never_green(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["gate", "--device", "cuda"]) == cli.USAGE
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_the_gate_needs_the_projects_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: File, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without kept cases there is nothing to run first."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["gate"]) == cli.USAGE
    assert "run the gate in the project's folder" in capsys.readouterr().err
