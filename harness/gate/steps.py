"""The gate, to be run before a merge that touches attention: its steps, the most telling first.

These are kept cases, the compile contract, probes, proof that this very run can fail, the ledger,
known failures of torch, and drawn cases until the time is up.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as File

from harness.case import DTYPES, DecodeCase
from harness.case.kept import FOLDER, load_all
from harness.case.probes import sweep
from harness.faults import FAULTS
from harness.faults.kill_matrix import kill_matrix
from harness.faults.mutants import Scope
from harness.gate.item import TIMEOUT, Item, Paths, Step
from harness.interpreter.gpu import missing
from harness.ledger.entries import Change, Ledger
from harness.ledger.measure import Unrecordable, measure_all
from harness.paths import PATHS, Path
from harness.strategies.paths import fitted, sampled_cases
from harness.support.progress import Progress
from harness.support.threads import one_thread
from harness.verdict import Finding, Verdict, contract
from harness.verdict.known_failures import known_failure

SCRIPTS = File("fixtures") / "repro"
PROBED = (
    "S=200,pos=99,H=4,Hkv=2,D=16,block=32",
    "S=160,pos=100/31,H=2,D=32,block=64,mask=window:40",
    "S=100,pos=60/-1,H=2,D=16,Q=3,block=32",
)
COMPILED = "S=1024,pos=700,H=4,Hkv=2,mode=compiled"
SMOKE = ("no-query-offset", "offset-one-high", "newest-block-dropped", "scale-one-percent-off")
SMOKE_EXAMPLES = 100
# Findings in Triton kernels, whose scripts need Triton.
_TRITON = "flextriton-"
_FUZZ_BATCH = 50


@dataclass
class Gate:
    """One run of the gate, which may take ``seconds`` from now; what is compiled on a CPU is
    compiled to these ``kernels``.

    ``ledger`` is the one to compare with, if any. ``excluded`` counts, by known failure, the cases
    left out because torch is known to be wrong there."""

    device: str
    seconds: float
    seed: int
    ledger: Ledger | None
    progress: Progress
    isolated: bool = True
    kernels: str = "cpp"
    steps: list[Step] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds
        self.paths = Paths(self.device, self.isolated)
        self.sound = [path for path in PATHS.values() if not path.known_wrong]

    @property
    def left(self) -> float:
        """The seconds that are left of the time for this run."""
        return max(0.0, self._end - time.monotonic())

    @property
    def failures(self) -> list[Item]:
        """The items of all steps that make the gate red."""
        return [item for step in self.steps for item in step.failures]

    def run(self) -> None:
        """Run all steps, or as many as there is time for; drawn cases take the time that is left.

        ``steps`` holds what was done, even where the run is interrupted.
        """
        try:
            for name, items in PLAN.items():
                step = Step(name)
                self.steps.append(step)
                start = time.monotonic()
                if not self.left:
                    step.items.append(Item(name, not_run="no time left"))
                for item in items(self, step) if self.left else ():
                    step.items.append(item)
                    if item.failed:
                        self.progress(f"{item.verdict}: {item.name}")
                    self.progress(f"{name}: {step.counted} verdicts, {self.left:.0f} s left")
                step.seconds = time.monotonic() - start
        finally:
            self.paths.close()

    def _run(self, path: Path, case: DecodeCase, step: Step) -> Item:
        """Judge a path on a case; only the first failure of a path in each step is diagnosed."""
        step.counted += 1
        known = any(item.path == path.name for item in step.failures)
        return self.paths.judge(path.name, case, explain=not known)

    def _kept(self, step: Step) -> Iterator[Item]:
        for kept in load_all(FOLDER):
            if kept.known_failure:
                continue
            for path in self.sound:
                if kept.path in ("", path.name) and not path.unsupported(kept.case, self.device):
                    yield self._run(path, kept.case, step)

    def _contract(self, step: Step) -> Iterator[Item]:
        for path in self.sound:
            case = path.contract_case
            if reason := path.unsupported(case, self.device):
                yield Item(f"contract of {path.name}", not_run=reason)
                continue
            broken = self._broken(path)
            for what in contract.PROMISES:
                step.counted += 1
                name = f"{path.name}: {what}"
                found = broken.get(what)
                yield Item(name, found.verdict, found.evidence) if found else Item(name)
        case = DecodeCase.from_text(COMPILED).replace(kernels=self.kernels)
        for path in self.sound:
            if not path.static:
                continue
            if reason := path.unsupported(case, self.device):
                yield Item(f"{path.name} compiled", not_run=reason)
            else:
                yield self._run(path, case, step)

    def _broken(self, path: Path) -> dict[str, Finding]:
        try:
            return contract.broken(path, self.device)
        except Exception as error:
            found = Finding(Verdict.ERROR, f"{type(error).__name__}: {error}".splitlines()[0])
            return dict.fromkeys(contract.PROMISES, found)

    def _probes(self, step: Step) -> Iterator[Item]:
        for text in PROBED:
            for dtype in DTYPES if self.left else ():
                for case in sweep(DecodeCase.from_text(text).replace(dtype=dtype)):
                    yield from self._judged(case, step)
                yield Item(f"{text},dtype={dtype}", evidence="every needle, uniform, integers")

    def _judged(self, case: DecodeCase, step: Step) -> Iterator[Item]:
        """Judge every sound path on a case, except where torch is known to be wrong."""
        for path, problem in ((p, x) for p in self.sound for x in fitted([case], p)):
            if path.unsupported(problem.case, self.device):
                continue
            if known := known_failure(path, problem, self.device):
                self.excluded[known.name] += 1
                continue
            item = self._run(path, problem.case, step)
            if item.failed:
                yield item

    def _smoke(self, step: Step) -> Iterator[Item]:
        cases = sampled_cases(SMOKE_EXAMPLES, self.seed)
        faults = [FAULTS[name] for name in SMOKE]
        for cell in kill_matrix(faults, DTYPES, cases, lambda text: None, (Scope.ALL, Scope.HEAD)):
            step.counted += 1
            name = f"{cell.fault} planted in {cell.scope} rows, {cell.dtype}"
            if cell.killed_by:
                yield Item(name, evidence=f"{cell.killed_by} after {cell.examples} examples")
            else:
                missed = f"not caught in {cell.examples} examples: this run cannot see it"
                yield Item(name, Verdict.WRONG, missed)

    def _ledger(self, step: Step) -> Iterator[Item]:
        if self.ledger is None:
            yield Item("ledger", not_run="there is no ledger for this device")
            return
        try:
            with one_thread():
                measured = list(measure_all(self.device, DTYPES, ["eager"], self.progress))
        except Unrecordable as error:
            yield Item("ledger", Verdict.WRONG, str(error))
            return
        missing = 0
        for change, entry, record in self.ledger.compare(measured):
            step.counted += 1
            if change is Change.LOOSENED and record is not None:
                evidence = f"{entry.figures}; recorded {record.figures}"
                yield Item(entry.key_text, Verdict.REGRESSED, evidence, repro=entry.worst_case)
            elif change is Change.TIGHTENED:
                yield Item(entry.key_text, evidence=f"{change}: {entry.figures}", notice=True)
            missing += change is Change.MISSING
        if missing:
            text = f"no record of {missing} entries: this torch, hardware or threads are new"
            yield Item("ledger", evidence=text, notice=True)
        else:
            yield Item("ledger", evidence="every entry has a record")

    def _known(self, step: Step) -> Iterator[Item]:
        """Run the scripts of FINDINGS.md, which exit with 1 while the defect is there and with 0
        once it is fixed."""
        for script in sorted(SCRIPTS.glob("*/script.py")):
            name = script.parent.name
            if self.device != "cpu":
                yield Item(name, not_run="a finding on the CPU")
                continue
            if name.startswith(_TRITON) and (reason := missing()):
                yield Item(name, not_run=reason)
                continue
            if self.left < self.seconds / 2:
                yield Item(name, not_run="no time left for it")
                continue
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, str(script)], capture_output=True, check=False, timeout=TIMEOUT
            )
            step.counted += 1
            seconds = time.monotonic() - start
            if done.returncode == 0:
                fixed = "FIXED in this torch: take it out of FINDINGS.md and known_failures.py"
                yield Item(name, evidence=fixed, notice=True, seconds=seconds)
            else:
                yield Item(name, evidence="still there", seconds=seconds)

    def _fuzz(self, step: Step) -> Iterator[Item]:
        run = self.seed
        while self.left > 0:
            run += 1
            for case in sampled_cases(_FUZZ_BATCH, run):
                if self.left <= 0:
                    break
                yield from self._judged(case, step)
            yield Item(f"drawn with seed {run}", evidence=f"{step.counted} verdicts so far")


# The steps of a run, in their order.
PLAN: dict[str, Callable[[Gate, Step], Iterator[Item]]] = {
    "kept cases": Gate._kept,
    "compile contract": Gate._contract,
    "probes": Gate._probes,
    "proof that this run can fail": Gate._smoke,
    "ledger": Gate._ledger,
    "known failures": Gate._known,
    "drawn cases": Gate._fuzz,
}
