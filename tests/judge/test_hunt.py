"""The hunt: what fails is found and kept, nothing lost when a worker dies or it is stopped."""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli
from harness.case import DecodeCase
from harness.commands import hunt as hunt_command
from harness.commands.options import UsageError
from harness.function.outcome import Outcome
from harness.hunting import text
from harness.hunting.failure import Found
from harness.hunting.hunt import Hunt
from harness.hunting.journal import Journal, JournalError
from harness.strategies.factors import covering, factors
from harness.verdict import Verdict
from tests.support import ROOT
from tests.support.hunted import DEATHS, beside_planted, few_factors, judge_planted, small_planted
from tests.support.processes import PATIENCE, interruptible

SETTINGS = {"kernels": ["cpp"], "seed": 0, "torch": "any"}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools are small, and none of them is of the split kernel's sizes."""
    monkeypatch.setattr("harness.strategies.factors.FACTORS", few_factors())
    monkeypatch.setattr("harness.hunting.hunt.SPLIT", {})


def hunted(folder: Path, geometries: int = 10**9, **options: Any) -> Hunt:
    """A hunt over so many geometries."""
    resume = options.pop("resume", False)
    journal = Journal(folder / "journal.jsonl", SETTINGS, resume=resume)
    hunt = planted(journal, geometries)
    with ThreadPoolExecutor(1) as executor:
        hunt.run(executor, 1)
    return hunt


def planted(journal: Journal, geometries: int, seconds: float = math.inf) -> Hunt:
    """A hunt for planted failures."""
    return Hunt(
        ("cpp",),
        0,
        journal,
        lambda said: None,
        seconds,
        geometries,
        judge=judge_planted,
        small=small_planted,
        beside=beside_planted,
    )


def told(hunt: Hunt) -> set[tuple[str, str]]:
    """What was found: what each is told by, and what it needs."""
    return {(one.sign, str(one.case)) for one in hunt.found}


def test_planted_failures_are_found_told_apart_and_made_small(tmp_path: Path) -> None:
    """Each once, at the values that it needs and no others; a refusal is none of them."""
    hunt = hunted(tmp_path, 50)
    failures = {str(one.case) for one in text.failures(hunt)}
    assert failures == {
        "S=1,pos=0,D=1,capture=computed,mode=compiled",
        "S=1,pos=0,D=1,dtype=bf16,tables=counts-expanded,mode=compiled",
        "S=90,pos=0,D=1,mask=prefix:90,mode=compiled,logits=low",
    }
    [refused] = text.refusals(hunt)
    assert refused.case.options == "partition:64"
    assert sum(one.geometries for one in hunt.found) > 9
    assert all(one.beside and (one.loud or one.script) for one in hunt.found)
    counts = hunt.counts["cpp"]
    assert 0 < counts.right < counts.geometries == 50
    assert counts.ok < counts.cases


def test_every_pair_is_tried_and_those_without_a_failure_are_judged_right(tmp_path: Path) -> None:
    """What was found is kept out of later pools, so that it hides no more than itself."""
    hunt = hunted(tmp_path, 60)
    possible, tried, right = hunt.pairs("cpp")
    assert tried == possible
    # Of the planted ones, two are in every call with a value: their pairs cannot be right.
    assert possible - right < 0.12 * possible


def test_a_hunt_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """What was judged is not judged again, what was found is still there."""
    first = hunted(tmp_path, 12)
    seen = {
        json.loads(line)["case"] for line in (tmp_path / "journal.jsonl").open() if '"case"' in line
    }
    second = hunted(tmp_path, 50, resume=True)
    assert second.counts["cpp"].geometries == 50
    assert told(first) <= told(second)
    # Nothing is found anew.
    lines = len([*second.journal.lines()])
    third = hunted(tmp_path, 50, resume=True)
    assert len(told(second)) > 2 and told(third) == told(second)
    assert len([*third.journal.lines()]) == lines
    judged = [line for line in second.journal.lines() if line["kind"] == "judged"]
    assert len({line["case"] for line in judged}) == 50
    assert len(seen) >= 12


def test_the_first_pool_is_the_same_where_a_hunt_goes_on(tmp_path: Path) -> None:
    """What was found in between changes later pools alone."""
    hunted(tmp_path / "parts", 8)
    parts = hunted(tmp_path / "parts", 40, resume=True)
    whole = hunted(tmp_path / "whole", 40)
    first = {str(one.case) for one in covering("cpp", 0)}

    def judged(hunt: Hunt) -> set[str]:
        return {line["case"] for line in hunt.journal.lines() if line["kind"] == "judged"}

    assert first <= judged(parts) & judged(whole)
    # What shows each failure is counted once, however often a hunt goes on.
    again = hunted(tmp_path / "parts", 40, resume=True)
    counts = [sum(one.geometries for one in hunt.found) for hunt in (parts, again)]
    assert 0 < counts[0] == counts[1] <= len(judged(parts))


def test_failures_that_come_out_the_same_are_told_once(tmp_path: Path) -> None:
    """With the geometries of both; what nothing explains yet is counted."""
    hunt = hunted(tmp_path, 3)
    wrong = Outcome.found(Verdict.WRONG, "x")
    small = "S=65,pos=64,tables=counts-expanded,mode=compiled"
    for first in ("S=256,pos=9", "S=300,pos=9"):
        case = DecodeCase.from_text(small)
        hunt.found.append(Found(case, 1, wrong, first, 2.0, False, geometries=4))
    [one] = [one for one in text.failures(hunt) if one.outcome == wrong]
    assert one.geometries == 8


def test_a_journal_of_another_hunt_is_refused(tmp_path: Path) -> None:
    """Nothing is written over, and nothing is mixed."""
    file = tmp_path / "journal.jsonl"
    with pytest.raises(JournalError, match="--resume, but there is no journal"):
        Journal(file, SETTINGS, resume=True)
    Journal(file, SETTINGS, resume=False)
    with pytest.raises(JournalError, match="is there; --resume"):
        Journal(file, SETTINGS, resume=False)
    with pytest.raises(JournalError, match="has seed 0, not 1"):
        Journal(file, SETTINGS | {"seed": 1}, resume=True)


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    """As a machine that stops leaves it."""
    journal = Journal(tmp_path / "journal.jsonl", SETTINGS, resume=False)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"kind": "judged", "ca')
    assert [line["kind"] for line in journal.lines()] == ["settings"]


def test_no_work_is_handed_out_once_the_time_is_up(tmp_path: Path) -> None:
    """A hunt without time judges nothing, and says so."""
    journal = Journal(tmp_path / "journal.jsonl", SETTINGS, resume=False)
    hunt = planted(journal, 10, seconds=0.0)
    with ThreadPoolExecutor(1) as executor:
        hunt.run(executor, 1)
    assert hunt.counts["cpp"].cases == 0


def test_a_hunt_spread_over_processes_finds_the_same_and_loses_nothing_with_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Dask cluster of two processes, two of which die over their work."""
    distributed = pytest.importorskip("distributed")
    alone = hunted(tmp_path / "alone", 30)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    monkeypatch.setenv(DEATHS, str(deaths))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    journal = Journal(tmp_path / "spread" / "journal.jsonl", SETTINGS, resume=False)
    spread = planted(journal, 30)
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor(pure=False) as executor,
    ):
        spread.run(executor, 2)
    assert (deaths / "death-1").exists()
    assert len([file for file in deaths.iterdir() if file.name.isdigit()]) >= 3
    assert spread.lost == []
    assert spread.counts["cpp"].geometries == 30
    assert told(spread) == told(alone)


@pytest.mark.compiles
def test_the_command_hunts_writes_and_exits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One geometry; journal, report and table are there."""
    command = ["hunt", "--geometries", "1", "--out", str(tmp_path), "--seconds", "1h"]
    code = cli.main(command)
    assert code in (cli.OK, cli.NOT_OK)
    said = capsys.readouterr().out
    assert said.startswith("## Hunt: ")
    assert said == (tmp_path / "report.md").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["covered"]["cpp"]["geometries"] == 1
    assert report["covered"]["cpp"]["pairs_tried"] == math.comb(len(factors("cpp")), 2)
    assert report["traps"]
    assert cli.main(command) == cli.USAGE
    assert "is there; --resume goes on" in capsys.readouterr().err


@pytest.mark.compiles
def test_an_interrupted_hunt_keeps_what_it_has(tmp_path: Path) -> None:
    """Exit code 130, soon, with a report and a journal with which it can go on."""
    command = [sys.executable, "-m", "harness", "hunt", "--out", str(tmp_path / "out")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with interruptible():
        process = subprocess.Popen(command, cwd=ROOT, **pipes)
    journal = tmp_path / "out" / "journal.jsonl"
    deadline = time.monotonic() + 300
    while not (journal.exists() and '"judged"' in journal.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == cli.INTERRUPTED, errors.decode()[-2000:]
    assert output.decode().startswith("## Hunt: INTERRUPTED")
    assert (tmp_path / "out" / "report.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="not run: there is a CUDA device")
def test_without_a_gpu_its_kernels_are_not_hunted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, never 0."""
    out = tmp_path / "out"
    assert cli.main(["hunt", "--kernels", "cuda", "--out", str(out)]) == cli.USAGE
    assert "--kernels cuda: torch sees no CUDA device" in capsys.readouterr().err
    assert not out.exists()


def test_a_hunt_on_gpus_asks_for_their_kernels_there_and_for_nothing_else(tmp_path: Path) -> None:
    """Its work names the device; what was found says so when it is read again."""
    asked: list[tuple[object, ...]] = []

    def judged(cases: list[str], threads: int, device: str) -> dict[str, Any]:
        asked.append((threads, device, {DecodeCase.from_text(text).kernels for text in cases}))
        return judge_planted(cases, threads, device)

    journal = Journal(tmp_path / "journal.jsonl", SETTINGS, resume=False)
    hunt = Hunt(("cuda",), 0, journal, str, math.inf, 30, judge=judged)
    hunt.small, hunt.beside = small_planted, beside_planted
    with ThreadPoolExecutor(1) as executor:
        hunt.run(executor, 1)
    assert len(asked) == 30
    assert {(threads, device) for threads, device, _ in asked} == {(1, "cuda")}
    assert all(kernels <= {"cpp"} for *_, kernels in asked)
    assert hunt.counts["cuda"].split == 0
    assert hunt.found and all(one.device == "cuda" for one in journal.found())
    possible, tried, _ = hunt.pairs("cuda")
    assert tried == possible


def test_workers_of_a_cluster_get_as_much_work_for_gpus_at_once_as_they_have() -> None:
    """By Dask's resources; without any the hunt is refused."""
    distributed = pytest.importorskip("distributed")
    options = dict(n_workers=1, threads_per_worker=4, dashboard_address=None, processes=False)
    arguments = argparse.Namespace(scheduler="", kernels=("cuda",), jobs=1)
    with distributed.LocalCluster(**options, resources={"GPU": 2}) as cluster:
        arguments.scheduler = cluster.scheduler_address
        executor, jobs = hunt_command.executor_of(arguments)
        assert jobs == 2
        most = max(future.result() for future in [executor.submit(at_work, n) for n in range(12)])
        assert most == 2
        distributed.default_client().close()  # Its threads would work on in later tests.
    with distributed.LocalCluster(**options) as cluster:
        arguments.scheduler = cluster.scheduler_address
        with pytest.raises(UsageError, match="no worker has the resource GPU"):
            hunt_command.executor_of(arguments)
        distributed.default_client().close()


_working: list[int] = []  # The workers are threads.
_two = threading.Barrier(2)


def at_work(number: int) -> int:
    """How many are at work here with this one, once another one is."""
    _working.append(number)
    _two.wait(PATIENCE)
    seen = len(_working)
    _working.remove(number)
    return seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "cude"], "--kernels: 'cude' is not one of cpp triton cuda"),
        (["--jobs", "0"], "--jobs: '0' is not a whole number >= 1"),
        (["--seconds", "long"], "--seconds: 'long' is not a time"),
        (["--geometries", "-1"], "--geometries: '-1'"),
        (["--resume"], "--resume, but there is no journal"),
    ],
)
def test_bad_usage_is_one_clear_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, before any work."""
    assert cli.main(["hunt", "--out", str(tmp_path / "out"), *arguments]) == cli.USAGE
    assert message in capsys.readouterr().err
