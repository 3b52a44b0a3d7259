"""``python -m harness check`` for a cache class: what it finds, how small, how to see it again."""

from __future__ import annotations

import json
from pathlib import Path

import black
import pytest

from harness import cli
from harness.case.program import Program
from harness.script.program_script import SHOWN
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.command import command
from tests.support.processes import Preloaded

CLASSES = Path(__file__).parents[1] / "support" / "cache_classes.py"
T = str(CLASSES)

pytestmark = pytest.mark.usefixtures("one_thread", "unhurried")


def found(target: str, folder: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    """The exit code and the JSON document of a search, and a script if there is one."""
    files = ("--json", str(folder / "a.json"), "--script", str(folder / "a.py"))
    code = command("check", target, *files, *arguments)
    return code, json.loads((folder / "a.json").read_text(encoding="utf-8"))


def test_a_sound_class_passes_and_every_step_was_taken(tmp_path: Path) -> None:
    """In a worker; the figures say what was not asked."""
    code, document = found("harness.serving.caches:DenseCache", tmp_path, "--max-examples", "60")
    assert (code, document["verdict"], document["case"]) == (cli.OK, "OK", None)
    steps = document["steps_run"]
    assert isinstance(steps, dict)
    assert set(steps) == {"admit", "decode", "rollback", "reset", "release", "fork", "grow"}
    assert document["features"] == ["gqa", "window", "value_dim"]
    assert 0 < document["max_utilisation"] <= 1  # type: ignore[operator]
    assert not (tmp_path / "a.py").exists()


def test_the_least_class_is_asked_for_decode_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """All sequences together, and what it lacks is named."""
    arguments = ("--no-isolation", "--max-examples", "30")
    assert command("check", f"{T}:Lockstep", *arguments) == cli.OK
    out = capsys.readouterr().out
    assert "not asked  for lack of query_lens of decode, rollback, reset, release, fork, gr" in out


def test_a_failure_becomes_a_short_program_a_diagnosis_and_a_script(
    tmp_path: Path, preloaded: Preloaded, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed command shows it again; the script needs torch and the class alone."""
    code, document = found("harness.serving.faults:RollbackLeavesPosition", tmp_path)
    assert (code, document["verdict"]) == (cli.NOT_OK, "WRONG")
    assert document["program"] == "decode; rollback all by 1; decode"
    assert document["diagnosis"] == ["taken-back-attended", "cache-content"]
    assert document["diagnosis_text"][0] == (  # type: ignore[index]
        "token 0 of sequence 0 attends token 0, which sequence 0 took back"
    )
    out = capsys.readouterr().out
    assert "program    decode; rollback all by 1; decode\n" in out
    assert f"repro      {document['repro']}\n" in out
    again = ("--case", str(document["case"]), "--steps", str(document["steps"]))
    assert command("check", "harness.serving.faults:RollbackLeavesPosition", *again) == cli.NOT_OK
    script = tmp_path / "a.py"
    text = script.read_text(encoding="utf-8")
    assert black.format_str(text, mode=black.Mode()) == text
    ran = preloaded.run(script, folder=tmp_path, path=[ROOT])
    assert ran.returncode == 1, ran.stderr
    assert "call 2, sequence 0" in ran.stdout


@pytest.mark.parametrize(
    ("name", "steps", "code", "said"),
    [
        (
            "DenseCache",
            "decode:1 admit:0:3 fork:0:1 rollback:2/1 decode:1 grow:9",
            0,
            "all rows ar",
        ),
        ("Raises", "decode:1 release:0", 1, "RuntimeError: no such sequence"),
        ("Crashes", "decode:1 reset:0", 1, "the process ended with -11"),
        ("ChangesItsQuery", "decode:1", 1, "call 1 changed its argument query"),
        ("HandsOutItsBuffer", "decode:1 decode:1", 1, "the output of call 1 was changed later"),
        ("TopLeft", "decode:1 decode:1", 1, "call 2, sequence 0, [h, i, d]"),
        ("OnlySmall", "page:4 decode:3/1 fork:0:1 decode:1 rollback:1 decode:2", 0, "all rows are"),
    ],
)
def test_a_script_shows_what_the_judge_saw(
    name: str, steps: str, code: int, said: str, tmp_path: Path, preloaded: Preloaded
) -> None:
    """And nothing where the class is sound, whatever the steps are."""
    from harness.case.precision import Precision
    from harness.function.outcome import Outcome
    from harness.function.spec import TargetSpec
    from harness.script.program_script import program_script
    from harness.serving.contract import Abilities
    from tests.support import cache_classes

    batch = 1 if name == "TopLeft" else 2
    program = Program.from_text(f"S=8,B={batch},pos=0,D=16 {steps}")
    verdict = Verdict.CRASH if name == "Crashes" else Verdict.WRONG
    text = program_script(
        TargetSpec(f"{CLASSES}:{name}"),
        program,
        Abilities.of(getattr(cache_classes, name)),
        Outcome.found(verdict, ""),
        Precision(),
    )
    script = tmp_path / "script.py"
    script.write_text(text, encoding="utf-8")
    assert black.format_str(text, mode=black.Mode()) == text
    ran = preloaded.run(script, folder=tmp_path, path=[ROOT])
    assert ran.returncode == code, ran.stderr
    assert said in ran.stdout + ran.stderr


def test_a_crash_is_found_in_a_worker(tmp_path: Path) -> None:
    """With the step at which the process died."""
    program = ("--case", "S=2,pos=0,D=16", "--steps", "decode:1 admit:0:1")
    code, document = found(f"{T}:Crashes", tmp_path, *program)
    assert (code, document["verdict"], document["failing_step"]) == (cli.NOT_OK, "CRASH", 2)
    (finding,) = document["findings"]  # type: ignore[misc]
    assert finding["evidence"].startswith("step 2 of 2 (admit:0:1): died of SIGSEGV (cache_classes")


def test_a_hang_is_found_in_a_worker(tmp_path: Path) -> None:
    """At its step, within the time limit."""
    program = ("--case", "S=2,pos=0,D=16", "--steps", "decode:1 rollback:1 decode:1")
    code, document = found(f"{T}:Hangs", tmp_path, "--timeout", "2", *program)
    assert (code, document["verdict"]) == (cli.NOT_OK, "TIMEOUT")
    assert document["failing_step"] == 2


def test_what_shows_only_after_other_programs_says_so(tmp_path: Path) -> None:
    """A class that keeps something between its objects."""
    code, document = found(f"{T}:Forgetful", tmp_path, "--max-examples", "60")
    assert (code, document["verdict"]) == (cli.NOT_OK, "WRONG")
    assert str(document["shows"]).startswith("only after other programs in the same process")


def test_a_class_that_refuses_some_programs_is_judged_on_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NotImplementedError is UNSUPPORTED, and counted."""
    code, document = found(f"{T}:OnlySmall", tmp_path, "--max-examples", "60")
    assert (code, document["verdict"]) == (cli.OK, "OK")
    assert document["unsupported"] == {
        "raised NotImplementedError: pages of more than 8 slots": pytest.approx(20, abs=19)
    }
    assert "UNSUPPORTED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{T}:NoDecode"], "NoDecode has no method decode(query, key, value)"),
        ([f"{T}:NoDtype"], "NoDtype(...) takes no dtype and no device"),
        ([f"{T}:DeclaresTooMuch"], "supports: a class may declare nonfinite_tail, not softcap"),
        ([f"{T}:Lockstep", "--case", "S=8,pos=3,D=16"], "all sequences of a program start empty"),
        (
            [f"{T}:Lockstep", "--case", "S=8,pos=0,D=16", "--steps", "decode:1", "--seed", "1"],
            "--seed: says what to draw, but --steps draws nothing",
        ),
        ([f"{T}:Lockstep", "--steps", "decode:1"], "--steps: needs --case"),
        ([f"{T}:Lockstep", "--compile"], "--compile: for a function; a class takes --steps"),
        ([f"{T}:Lockstep", "--case", "S=8,pos=0,D=16", "--steps", "decode:1 reset:0"], "no method"),
        ([f"{T}:Lockstep", "--case", "S=8,pos=0,D=16", "--steps", "decode:9"], "do not fit into"),
        (
            ["tests/support/targets.py:sound", "--case", "S=4,pos=1", "--steps", "decode:1"],
            "is a f",
        ),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    assert command("check", "--no-isolation", *arguments) == cli.USAGE
    assert message in capsys.readouterr().err


def test_a_verdict_that_no_script_shows_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written."""
    assert Verdict.NONDETERMINISTIC not in SHOWN
    program = ("--case", "S=2,pos=0,D=16", "--steps", "decode:1")
    code, document = found(f"{T}:ReadsUnwrittenMemory", tmp_path, *program)
    assert (code, document["verdict"]) == (cli.NOT_OK, "NONDETERMINISTIC")
    assert not (tmp_path / "a.py").exists()
    assert "--script: not written: none shows NONDETERMINISTIC" in capsys.readouterr().err
