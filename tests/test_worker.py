"""Isolation: whatever a function does to its process, it is named and the next case is judged."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.case import DecodeCase
from harness.function.load import TargetError
from harness.function.run import TargetSpec
from harness.function.worker import Worker
from harness.verdict import Verdict
from tests.support import ends, runs
from tests.targets import FAULTS

TARGETS = Path(__file__).with_name("targets.py")
TIMEOUT = 10.0


def start(name: str, timeout: float = TIMEOUT) -> Worker:
    return Worker(TargetSpec(f"{TARGETS}:{name}"), timeout)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with start("by_length") as running:
        yield running


def of_length(slots: int) -> DecodeCase:
    return DecodeCase(cache_len=slots, input_pos=(7,), head_dim=16, seed=3)


WANTED = {
    101: (Verdict.CRASH, "died of SIGSEGV (targets.py, line "),
    102: (Verdict.CRASH, "ended the process with status 3"),
    103: (Verdict.ERROR, "SystemExit: 4"),
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
}


def test_every_fault_has_a_wanted_verdict() -> None:
    """Nothing planted is left out."""
    assert set(WANTED) == set(FAULTS)


@pytest.mark.parametrize("slots", sorted(FAULTS))
def test_a_fault_is_named_and_the_next_case_is_judged(worker: Worker, slots: int) -> None:
    """One worker lives through all of them."""
    verdict, evidence = WANTED[slots]
    outcome = worker.run(of_length(slots), timeout=1.0 if verdict is Verdict.TIMEOUT else 60.0)
    assert outcome.verdict is verdict, outcome
    assert evidence in "".join(finding.evidence for finding in outcome.findings[:1])
    after = worker.run(of_length(20))
    assert after.verdict is Verdict.OK
    assert after.utilisation is not None


def test_what_is_changed_is_put_back(worker: Worker) -> None:
    """A changed setting is found at each call, not at the first alone."""
    assert [worker.run(of_length(107)).verdict for _ in range(2)] == [Verdict.MUTATED] * 2


def test_no_process_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that is busy with a case."""
    monkeypatch.setenv("BEGUN", str(tmp_path / "pid"))
    with start("waits", timeout=1.0) as worker:
        worker.run(of_length(20))
        (tmp_path / "pid").unlink()
        worker._channel.send((of_length(20), 60.0, None, False))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        child = int((tmp_path / "pid").read_text())
        assert runs(child)
    assert ends(worker._process.pid)
    assert ends(child)


def test_a_target_that_dies_while_it_is_imported_is_no_target(tmp_path: Path) -> None:
    """Said with the signal; so is an import error."""
    file = tmp_path / "dies.py"
    file.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(TargetError, match="importing the target: died of SIGSEGV"):
        Worker(TargetSpec(f"{file}:f"), TIMEOUT)


def test_a_worker_ends_itself_if_nobody_ends_it(worker: Worker) -> None:
    """An alarm beyond the time limit: the parent may have been killed."""
    worker.run(of_length(20))
    child = worker._child
    assert child is not None
    os.kill(child, signal.SIGALRM)
    time.sleep(0.2)
    assert worker.run(of_length(20)).verdict is Verdict.TIMEOUT
    assert worker.run(of_length(20)).verdict is Verdict.OK
