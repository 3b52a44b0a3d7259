"""Isolation: whatever a function does to its process, it is named and the next case is judged."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.function.spec import TargetError, TargetSpec
from harness.function.worker import Worker
from harness.verdict import Verdict
from tests.support import TARGETS
from tests.support.processes import PATIENCE, ends, interruptible, runs, written
from tests.support.targets import FAULTS

pytestmark = pytest.mark.usefixtures("one_thread")

# Of cases that return: reached on no machine, however busy.
TIMEOUT = 120.0


def start(name: str) -> Worker:
    return Worker(TargetSpec(f"{TARGETS}:{name}"), TIMEOUT)


@pytest.fixture(scope="module")
def worker(one_thread: None) -> Iterator[Worker]:
    with start("by_length") as running:
        yield running


def of_length(slots: int) -> DecodeCase:
    return DecodeCase(cache_len=slots, input_pos=(7,), head_dim=16, seed=3)


WANTED = {
    101: (Verdict.CRASH, "died of SIGSEGV (targets.py, line "),
    102: (Verdict.CRASH, "ended the process with status 3"),
    103: (Verdict.CRASH, "called sys.exit(4) (targets.py, line "),
    104: (Verdict.TIMEOUT, "did not return within 1 s"),
    105: (Verdict.OOM, "allocate memory"),
    106: (Verdict.MUTATED, "changed its input key_buffer"),
    107: (Verdict.MUTATED, "changed torch.get_num_threads from 1 to 7"),
    108: (Verdict.MUTATED, "changed torch.get_default_dtype from torch.float32 to torch.float64"),
    109: (Verdict.MUTATED, "changed the state of torch's random numbers"),
    110: (Verdict.OK, ""),
    111: (Verdict.OK, ""),
    112: (Verdict.CRASH, "died of SIGINT"),
    113: (Verdict.OOM, "allocate memory"),
    114: (Verdict.CRASH, "died of SIGABRT (targets.py, line "),
    115: (Verdict.MUTATED, "changed the working directory from "),
    116: (Verdict.TIMEOUT, "did not return in time"),
    117: (Verdict.ERROR, "RuntimeError: "),
    118: (Verdict.CRASH, "ended the process with status 0"),
    119: (Verdict.CRASH, "ended the process with status 75"),
    120: (Verdict.CRASH, "called sys.exit(0) (targets.py, line "),
    121: (Verdict.CRASH, "died of SIGABRT (targets.py, line "),
    122: (Verdict.ERROR, "its result cannot be judged: TypeError: "),
}


def test_every_fault_has_a_wanted_verdict() -> None:
    """Nothing planted is left out."""
    assert set(WANTED) == set(FAULTS)


@pytest.mark.parametrize("slots", sorted(FAULTS))
def test_a_fault_is_named_and_the_next_case_is_judged(worker: Worker, slots: int) -> None:
    """One worker lives through all of them."""
    verdict, evidence = WANTED[slots]
    outcome = worker.run(of_length(slots), timeout=1.0 if slots == 104 else TIMEOUT)
    assert outcome.verdict is verdict, outcome
    assert evidence in "".join(finding.evidence for finding in outcome.findings[:1])
    after = worker.run(of_length(20))
    assert after.verdict is Verdict.OK
    assert after.utilisation is not None


def test_a_fresh_process_is_had_after_one_that_left_by_itself(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that cannot be judged spoils its process, whose successor is there already."""
    assert "cannot be judged" in worker.run(of_length(122)).findings[0].evidence
    monkeypatch.setattr("harness.function.worker.GRACE", PATIENCE)
    time.sleep(1.0)  # It leaves once it has answered; what is asked at once still finds it.
    begun = time.monotonic()
    assert worker.fresh()
    assert worker.run(of_length(20)).verdict is Verdict.OK
    # Waiting for the greeting of another successor would end in a refusal only minutes later.
    assert time.monotonic() - begun < PATIENCE


def test_what_is_changed_is_put_back(worker: Worker) -> None:
    """A changed setting is found at each call, not at the first alone."""
    assert [worker.run(of_length(107)).verdict for _ in range(2)] == [Verdict.MUTATED] * 2


def test_no_process_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is busy with a case nor its parent, whoever is interrupted meanwhile."""
    begun = tmp_path / "begun"
    monkeypatch.setenv("BEGUN", str(begun))
    here, over = threading.get_ident(), threading.Event()

    def interrupt() -> list[int]:
        pids = [int(pid) for pid in written(begun, lambda: not over.is_set()).split()]
        assert all(map(runs, pids))
        signal.pthread_kill(here, signal.SIGINT)
        return pids

    def run() -> None:
        with start("waits") as worker:
            worker.run(of_length(20), timeout=600.0)

    with interruptible(), ThreadPoolExecutor(1) as thread:
        pids = thread.submit(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                run()
        finally:
            over.set()
        assert all(map(ends, pids.result()))


def test_a_target_that_dies_while_it_is_imported_is_no_target(tmp_path: Path) -> None:
    """Said with the signal; so is an import error."""
    file = tmp_path / "dies.py"
    file.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(TargetError, match="importing the target: died of SIGSEGV"):
        Worker(TargetSpec(f"{file}:f"), TIMEOUT)


def test_a_worker_ends_itself_if_nobody_ends_it(worker: Worker) -> None:
    """An alarm beyond the time limit: the parent may have been killed."""
    outcome = worker.run(of_length(117), timeout=1000.0)
    left = re.search(r"RuntimeError: ([\d.]+)", outcome.findings[0].evidence)
    assert left is not None
    assert float(left[1]) > 1000


def test_a_crash_shows_the_last_lines_of_stderr(worker: Worker) -> None:
    """A few, none of them endless, without what the fault handler says."""
    outcome = worker.run(of_length(121))
    assert outcome.verdict is Verdict.CRASH
    assert outcome.findings[0].evidence.startswith("died of SIGABRT (targets.py, line ")
    assert outcome.stderr == ("said 16", "said 17", "said 18", "said 19", "x" * 200)
    assert Outcome.from_values(json.loads(json.dumps(outcome.to_values()))) == outcome
    assert worker.run(of_length(101)).stderr == ()


def test_stderr_is_read_to_its_end_on_a_busy_machine(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late the thread gets its turn, the frames of a crash are there."""
    read = os.read

    def late(fd: int, size: int) -> bytes:
        block = read(fd, size)
        time.sleep(0.5)
        return block

    monkeypatch.setattr(os, "read", late)
    for _ in range(2):
        outcome = worker.run(of_length(114))
        assert outcome.findings[0].evidence.startswith("died of SIGABRT (targets.py, line ")
    assert worker.run(of_length(102)).stderr == ()


def test_a_target_that_leaves_while_it_is_imported_is_no_target(tmp_path: Path) -> None:
    """Also with status 0, after which nobody waits for an answer."""
    file = tmp_path / "leaves.py"
    file.write_text("import os, sys\nprint('bye', file=sys.stderr, flush=True)\nos._exit(0)\n")
    wanted = "importing the target: ended the process with status 0; bye"
    with pytest.raises(TargetError, match=wanted):
        Worker(TargetSpec(f"{file}:f"), TIMEOUT)
