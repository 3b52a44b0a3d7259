"""How a hunt ends: what was seen and not settled, or lost, is no success, and nothing known is lost
with a journal that breaks."""

from __future__ import annotations

import errno
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli
from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.hunting.journal import Journal
from harness.support.files import UnwritableFile
from harness.support.scripts import Ran
from harness.verdict import Verdict
from tests.support.hunted import broken

Run = Callable[[DecodeCase, int, str], Outcome]
Hunted = Callable[..., tuple[int, str, dict[str, Any]]]
WRONG = Outcome.found(Verdict.WRONG, "output at (0,) is 1, should be 2")


@pytest.fixture
def hunt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Hunted:
    """The command with a judge of the test: exit code, what it printed, and the JSON report."""

    def hunted(run: Run, *words: str) -> tuple[int, str, dict[str, Any]]:
        monkeypatch.setattr("harness.hunting.work.run", run)
        monkeypatch.setattr("harness.hunting.work.run_script", lambda *_, **__: Ran(1))
        monkeypatch.setattr("harness.hunting.traps.TRAPS", {})
        code = cli.main(["hunt", "--out", str(tmp_path / "out"), *words])
        report = tmp_path / "out" / "report.json"
        said = capsys.readouterr()
        return code, said.out + said.err, json.loads(report.read_text()) if report.exists() else {}

    return hunted


def test_what_was_seen_and_does_not_show_again_is_not_settled(hunt: Hunted) -> None:
    """Exit 3, with the case in text and JSON."""
    seen = set[str]()

    def once(case: DecodeCase, threads: int, device: str) -> Outcome:
        outcome = Outcome(utilisation=0.1) if seen else WRONG
        seen.add(str(case))
        return outcome

    code, said, report = hunt(once, "--geometries", "2")
    [case] = [one["case"] for one in report["not_settled"]]
    assert code == cli.INCOMPLETE
    assert said.count("## Hunt: INCOMPLETE, 0 failures found, 1 seen and not settled in ") == 1
    assert f"- seen and not settled, it did not show again: wrong numbers: `{case}`" in said
    assert "No failure was seen" not in said


def test_what_there_was_no_time_to_shrink_is_not_settled(
    hunt: Hunted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3: the time was over once the first geometry was judged."""
    judged: list[DecodeCase] = []
    # The clock of a hunt, by which hours pass once something was judged.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 36000 * bool(judged))
    monkeypatch.setattr("harness.isolation.campaign.time", clock)

    def slow(case: DecodeCase, threads: int, device: str) -> Outcome:
        judged.append(case)
        return WRONG

    code, said, report = hunt(slow, "--seconds", "1h")
    assert code == cli.INCOMPLETE
    assert report["not_settled"]
    assert "seen and not settled, there was no time to shrink it: wrong numbers" in said


def test_lost_work_is_incomplete_and_says_how_much(hunt: Hunted) -> None:
    """Exit 3, and that no failure was seen, which is all that is known."""

    def dies(case: DecodeCase, threads: int, device: str) -> Outcome:
        raise RuntimeError("the worker process is gone")

    code, said, report = hunt(dies, "--geometries", "2")
    assert code == cli.INCOMPLETE
    assert "## Hunt: INCOMPLETE, 0 failures found, 2 pieces of work lost in " in said
    assert "\nNo failure was seen.\n" in said
    assert len(report["lost"]) == 2


def test_a_hunt_in_which_all_is_right_is_complete(hunt: Hunted) -> None:
    """Exit 0, and a failure that was found and is not known stays exit 1."""
    code, said, report = hunt(lambda *_: Outcome(utilisation=0.1), "--geometries", "2")
    assert (code, report["not_settled"], report["lost"]) == (cli.OK, [], [])
    assert said.count("## Hunt: 0 failures found in ") == 1
    code, said, _ = hunt(lambda *_: WRONG, "--geometries", "6", "--resume")
    assert code == cli.NOT_OK, said


def test_a_line_that_was_cut_off_takes_no_other_with_it(hunt: Hunted, tmp_path: Path) -> None:
    """What is written after it is there when the hunt goes on once more."""
    file = tmp_path / "out" / "journal.jsonl"
    hunt(broken, "--geometries", "5")
    file.write_bytes(file.read_bytes()[:-40])
    before = judged(file)
    _, _, report = hunt(broken, "--geometries", "8", "--resume")
    assert report["covered"]["cpp"]["geometries"] == 8
    assert len(judged(file)) == 8
    assert before < judged(file)
    _, _, again = hunt(broken, "--geometries", "8", "--resume")
    assert again["covered"]["cpp"]["cases"] == report["covered"]["cpp"]["cases"]


def judged(file: Path) -> set[str]:
    """The geometries in a journal, by what can be read of it."""
    found = set()
    for text in file.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["kind"] == "judged":
            found.add(line["case"])
    return found


def test_a_journal_of_another_version_is_refused_in_one_line(hunt: Hunted, tmp_path: Path) -> None:
    """Exit 2, whether a field is gone or a value is unknown; another seed is named."""
    file = tmp_path / "out" / "journal.jsonl"
    hunt(broken, "--geometries", "1")
    whole = file.read_text()
    code, said, _ = hunt(broken, "--resume", "--seed", "1")
    assert code == cli.USAGE
    assert "has seed 0, not 1" in said
    for old, new in (('"threads"', '"workers"'), ("S=", "slots=")):
        file.write_text(whole.replace(old, new))
        code, said, _ = hunt(broken, "--resume")
        assert code == cli.USAGE
        [line] = [line for line in said.splitlines() if "error: " in line]
        assert "is not a journal of this version" in line


def test_a_full_disk_ends_a_hunt_with_what_is_known(
    hunt: Hunted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 and one line, after the report."""
    add, written = Journal.add, list[str]()

    def full(self: Journal, kind: str, values: dict[str, Any]) -> None:
        written.append(kind)
        if len(written) > 2:
            raise UnwritableFile(f"journal.jsonl: {os.strerror(errno.ENOSPC)}")
        add(self, kind, values)

    monkeypatch.setattr(Journal, "add", full)
    code, said, _ = hunt(lambda *_: Outcome(utilisation=0.1), "--geometries", "5")
    assert code == cli.USAGE
    assert "## Hunt: 0 failures found in " in said
    assert "harness hunt: error: journal.jsonl: No space left on device" in said
    assert "Traceback" not in said


def test_a_journal_that_was_cut_by_a_full_disk_goes_on(tmp_path: Path) -> None:
    """The line that did not fit is lost, and no other."""
    journal = Journal(tmp_path / "journal.jsonl", {}, resume=False)
    size = (tmp_path / "journal.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(UnwritableFile, match="File too large"):
            journal.add("one", {"text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.add("two", {})
    assert [line["kind"] for line in journal.lines()] == ["settings", "two"]
