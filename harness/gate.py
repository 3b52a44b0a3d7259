"""What a team runs before a merge that touches attention: checks in order of their value.

Kept cases and known failures first, then the compile contract, probes, the ledger, proof that this
very run can fail, and drawn cases until the time is up.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as File

import torch

from harness import contract
from harness.case import DTYPES, DecodeCase, InvalidCase
from harness.faults import FAULTS
from harness.gate_check import TIMEOUT, Check, Paths, Step
from harness.kept import FOLDER, load_all
from harness.kill import kill_matrix
from harness.known_failures import known_failure
from harness.ledger import Change, Ledger
from harness.mutants import Scope
from harness.paths import PATHS, Path
from harness.probes import sweep
from harness.recording import Unrecordable, measure_all
from harness.strategies import drawn_cases, fit
from harness.verdict import Finding, Problem, Verdict

SCRIPTS = File("fixtures") / "repro"
PROBED = (
    "S=200,pos=99,H=4,Hkv=2,D=16,block=32",
    "S=160,pos=100/31,H=2,D=32,block=64,mask=window:40",
    "S=100,pos=60/-1,H=2,D=16,Q=3,block=32",
)
COMPILED = "S=1024,pos=700,H=4,Hkv=2,mode=compiled"
SMOKE = ("no-query-offset", "offset-one-high", "newest-block-dropped", "scale-one-percent-off")
SMOKE_EXAMPLES = 100
_FUZZ_BATCH = 50

Progress = Callable[[str], None]


@dataclass
class Gate:
    """A run: ``seconds`` of budget, from now; ``excluded`` counts drawn cases left out because
    torch is known to be wrong there."""

    device: str
    seconds: float
    seed: int
    ledger: Ledger | None
    progress: Progress
    isolated: bool = True
    steps: list[Step] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds
        self.paths = Paths(self.device, self.isolated)
        self.sound = [path for path in PATHS.values() if not path.exhibit]

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return max(0.0, self._end - time.monotonic())

    @property
    def failures(self) -> list[Check]:
        """Everything that makes it red."""
        return [check for step in self.steps for check in step.failures]

    def run(self) -> None:
        """All steps, or as many as there is time for; drawing takes what is left.

        ``steps`` holds what was done, also where this is interrupted.
        """
        plan: list[tuple[str, Callable[[Step], Iterator[Check]]]] = [
            ("kept cases", self._kept),
            ("compile contract", self._contract),
            ("probes", self._probes),
            ("proof that this run can fail", self._smoke),
            ("ledger", self._ledger),
            ("known failures", self._known),
            ("drawn cases", self._fuzz),
        ]
        try:
            for name, checks in plan:
                step = Step(name)
                self.steps.append(step)
                start = time.monotonic()
                if not self.left:
                    step.checks.append(Check(name, not_run="no time left"))
                for check in checks(step) if self.left else ():
                    step.checks.append(check)
                    if check.failed:
                        self.progress(f"{check.verdict}: {check.name}")
                    self.progress(f"{name}: {step.counted} verdicts, {self.left:.0f} s left")
                step.seconds = time.monotonic() - start
        finally:
            self.paths.close()

    def _run(self, path: Path, case: DecodeCase, step: Step) -> Check:
        """One verdict; the first failure of a path in each step is explained."""
        step.counted += 1
        known = any(check.path == path.name for check in step.failures)
        return self.paths.check(path.name, case, explain=not known)

    def _kept(self, step: Step) -> Iterator[Check]:
        for kept in load_all(FOLDER):
            if kept.known_failure:
                continue
            for path in self.sound:
                if kept.path in ("", path.name) and not path.unsupported(kept.case, self.device):
                    yield self._run(path, kept.case, step)

    def _contract(self, step: Step) -> Iterator[Check]:
        for path in self.sound:
            case = contract.CASE.replace(kv_heads=1 if path.name == "fixed-packed" else 0)
            if reason := path.unsupported(case, self.device):
                yield Check(f"contract of {path.name}", not_run=reason)
                continue
            broken = self._broken(path, case)
            for what in contract.CHECKS:
                step.counted += 1
                name = f"{path.name}: {what}"
                found = broken.get(what)
                yield Check(name, found.verdict, found.evidence) if found else Check(name)
        case = DecodeCase.from_text(COMPILED)
        for path in self.sound:
            if not path.static:
                continue
            if reason := path.unsupported(case, self.device):
                yield Check(f"{path.name} compiled", not_run=reason)
            else:
                yield self._run(path, case, step)

    def _broken(self, path: Path, case: DecodeCase) -> dict[str, Finding]:
        try:
            return contract.broken(path, self.device, case)
        except Exception as error:
            found = Finding(Verdict.ERROR, f"{type(error).__name__}: {error}".splitlines()[0])
            return dict.fromkeys(contract.CHECKS, found)

    def _probes(self, step: Step) -> Iterator[Check]:
        for text in PROBED:
            for dtype in DTYPES if self.left else ():
                for case in sweep(DecodeCase.from_text(text).replace(dtype=dtype)):
                    yield from self._judged(case, step)
                yield Check(f"{text},dtype={dtype}", evidence="every needle, uniform, integers")

    def _judged(self, case: DecodeCase, step: Step) -> Iterator[Check]:
        """Every sound path on a case, without what torch is known to do wrong."""
        for path in self.sound:
            try:
                problem = Problem.of(fit(case, path))
            except InvalidCase:
                continue
            if path.unsupported(problem.case, self.device):
                continue
            if known := known_failure(path, problem, self.device):
                self.excluded[known.name] += 1
                continue
            check = self._run(path, problem.case, step)
            if check.failed:
                yield check

    def _smoke(self, step: Step) -> Iterator[Check]:
        cases = drawn_cases(SMOKE_EXAMPLES, self.seed)
        faults = [FAULTS[name] for name in SMOKE]
        for cell in kill_matrix(faults, DTYPES, cases, lambda text: None, (Scope.ALL, Scope.HEAD)):
            step.counted += 1
            name = f"{cell.fault} planted in {cell.scope} rows, {cell.dtype}"
            if cell.killed_by:
                yield Check(name, evidence=f"{cell.killed_by} after {cell.examples} examples")
            else:
                missed = f"not caught in {cell.examples} examples: this run cannot see it"
                yield Check(name, Verdict.WRONG, missed)

    def _ledger(self, step: Step) -> Iterator[Check]:
        if self.ledger is None:
            yield Check("ledger", not_run="there is no ledger for this device")
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            measured = list(measure_all(self.device, DTYPES, ["eager"], self.progress))
        except Unrecordable as error:
            yield Check("ledger", Verdict.WRONG, str(error))
            return
        finally:
            torch.set_num_threads(threads)
        missing = 0
        for change, entry, record in self.ledger.compare(measured):
            step.counted += 1
            now = f"worst {entry.worst_utilisation:.3g}, median {entry.median_utilisation:.3g}"
            if change is Change.LOOSENED and record is not None:
                before = f"{record.worst_utilisation:.3g} and {record.median_utilisation:.3g}"
                evidence = f"{now} of the budget, recorded {before}"
                yield Check(entry.key_text, Verdict.REGRESSED, evidence, repro=entry.worst_case)
            elif change is Change.TIGHTENED:
                yield Check(entry.key_text, evidence=f"{change}: {now}", notice=True)
            missing += change is Change.MISSING
        if missing:
            text = f"no record of {missing} entries: this torch, hardware or threads are new"
            yield Check("ledger", evidence=text, notice=True)
        else:
            yield Check("ledger", evidence="every entry has a record")

    def _known(self, step: Step) -> Iterator[Check]:
        """Scripts of FINDINGS.md: 1 while the defect is there, 0 once it is fixed."""
        for script in sorted(SCRIPTS.glob("*/script.py")):
            name = script.parent.name
            if self.device != "cpu":
                yield Check(name, not_run="a finding on the CPU")
                continue
            if self.left < self.seconds / 2:
                yield Check(name, not_run="no time left for it")
                continue
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, str(script)], capture_output=True, check=False, timeout=TIMEOUT
            )
            step.counted += 1
            seconds = time.monotonic() - start
            if done.returncode == 0:
                fixed = "FIXED in this torch: take it out of FINDINGS.md and known_failures.py"
                yield Check(name, evidence=fixed, notice=True, seconds=seconds)
            else:
                yield Check(name, evidence="still there", seconds=seconds)

    def _fuzz(self, step: Step) -> Iterator[Check]:
        run = self.seed
        while self.left > 0:
            run += 1
            for case in drawn_cases(_FUZZ_BATCH, run):
                if self.left <= 0:
                    break
                yield from self._judged(case, step)
            yield Check(f"drawn with seed {run}", evidence=f"{step.counted} verdicts so far")
