"""The gate, to be run before a merge that touches attention: its steps, each with its share of the
time.

These are proof that this very run can fail, kept cases, the compile contract, probes, the ledger,
known failures of torch, drawn positions and values on compiled geometries, long contexts, and drawn
cases until the time is up. A step hands on what it leaves of its
share, and does one item at least.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from harness.case import DTYPES, DecodeCase
from harness.case.kept import FOLDER, load_all
from harness.case.probes import sweep
from harness.gate.changed import order, touched
from harness.gate.geometries import Covered, compiled
from harness.gate.item import TIMEOUT, Item, Paths, Step
from harness.gate.known import known_failures
from harness.gate.pieces import broken_promises, eager_entries
from harness.gate.proof import COMPILED, PLANTED, proofs
from harness.isolation.apart import Ended, apart
from harness.ledger.entries import Change, Ledger
from harness.ledger.measure import Unrecordable
from harness.paths import PATHS, Path
from harness.strategies.paths import decode_data, fitted, sampled_cases
from harness.support.interrupts import OutOfTime, time_limit
from harness.support.progress import Progress
from harness.verdict import Finding, Verdict, contract
from harness.verdict.known_failures import known_failure

PROBED = (
    "S=200,pos=99,H=4,Hkv=2,D=16,block=32",
    "S=160,pos=100/31,H=2,D=32,block=64,mask=window:40",
    "S=100,pos=60/-1,H=2,D=16,Q=3,block=32",
)
# Production's lengths: around 2^15 and 2^16, where 16 bits end, and beyond; one of them compiled.
LONG = (
    "S=16384,pos=16000,H=4,Hkv=2,tail=poison,probe=needle:0",
    "S=65537,pos=65500,H=2,Hkv=1,tail=poison,mode=compiled",
    "S=32769,pos=32767,H=2,Hkv=1,dtype=bf16,tail=leftovers",
    "S=65537,pos=65536,H=2,Hkv=1,dtype=fp16,probe=needle:65535",
    "S=131072,pos=131000/70000,D=32,mask=window:4096,tail=poison",
)
# What runs over the time is ended after a tenth of it, 15 s at least, less some for the report.
OVER, LEAST_OVER, REPORT = 0.1, 15.0, 5.0
_FUZZ_BATCH = 50
_DATA = 8  # cases of a compiled geometry and path
_Work = TypeVar("_Work")


@dataclass
class Gate:
    """One run of the gate, which may take ``seconds`` from its ``start``, by ``time.monotonic``;
    what is compiled on a CPU is compiled to these ``kernels``.

    ``ledger`` is the one to compare with, if any. ``excluded`` counts, by known failure, the cases
    left out because torch is known to be wrong there."""

    device: str
    seconds: float
    seed: int
    ledger: Ledger | None
    progress: Progress
    isolated: bool = True
    kernels: str = "cpp"
    changed: tuple[str, ...] = ()
    steps: list[Step] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    start: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._end = self.start + self.seconds
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

    @property
    def cut(self) -> list[Step]:
        """The steps of which something was left out for want of time."""
        return [step for step in self.steps if step.cut]

    def run(self) -> None:
        """Run all steps; drawn cases take the time that is left. What runs over it by more than a
        tenth, or by 15 s where that is more, is ended, and what comes after it is left out.

        ``steps`` holds what was done, even where the run is interrupted.
        """
        names = order(list(PLAN), self.changed) if PLAN else []
        over = max(self.seconds * OVER, LEAST_OVER) - REPORT
        try:
            with time_limit(self._end + over - time.monotonic()):
                self._run(names)
        except OutOfTime:
            self._ended(names)
        finally:
            self.paths.close()

    def _run(self, names: list[str]) -> None:
        shares = [PLAN[name][1] for name in names]
        for number, name in enumerate(names):
            items, share = PLAN[name]
            start = time.monotonic()
            step = Step(name, start + self.left * share / sum(shares[number:]))
            self.steps.append(step)
            try:
                for item in items(self, step):
                    step.items.append(item)
                    if item.failed:
                        self.progress(f"{item.verdict}: {item.name}")
                    self.progress(f"{name}: {step.counted} verdicts, {self.left:.0f} s left")
            finally:
                step.seconds = time.monotonic() - start

    def _ended(self, names: list[str]) -> None:
        """Say what was ended and what was never begun."""
        begun = self.steps[-1]
        begun.items.append(Item(begun.doing or begun.name, not_run="ended, it ran over the time"))
        begun.cut = begun.cut or "what it had left to do"
        self.progress(f"{begun.name}: ended, the time is over")
        self.steps += [Step(name, cut="any of it") for name in names[len(self.steps) :]]

    def _in_time(self, step: Step, work: Iterable[_Work], what: str) -> Iterator[_Work]:
        """The pieces of work for which there is time, the first one in any case; counts the others,
        which are so many ``what``."""
        pieces = list(work)
        for done, piece in enumerate(pieces):
            if done and not step.left:
                step.cut = f"{len(pieces) - done} of {len(pieces)} {what}"
                return
            yield piece

    def _judge(self, path: Path, case: DecodeCase, step: Step) -> Item:
        """Judge a path on a case; only the first failure of a path in each step is diagnosed."""
        step.doing = f"{path.name} {case}"
        known = any(item.path == path.name for item in step.failures)
        item = self.paths.judge(path.name, case, explain=not known)
        step.counted += 1
        return item

    def _kept(self, step: Step) -> Iterator[Item]:
        runs = [
            (path, kept.case)
            for kept in load_all(FOLDER)
            for path in self.sound
            if not kept.known_failure and kept.path in ("", path.name)
            if not path.unsupported(kept.case, self.device)
        ]
        for path, case in self._in_time(step, runs, "kept cases"):
            yield self._judge(path, case, step)

    def _contract(self, step: Step) -> Iterator[Item]:
        # The compiled runs first: users run compiled kernels, and the promises take longer.
        compiled = DecodeCase.from_text(COMPILED).replace(kernels=self.kernels)
        paths = [(path, True) for path in self.sound if path.static]
        paths += [(path, False) for path in self.sound]
        for path, once in self._in_time(step, paths, "compiled paths"):
            if not once:
                yield from self._promises(path, step)
            elif reason := path.unsupported(compiled, self.device):
                yield Item(f"{path.name} compiled", not_run=reason)
            else:
                yield self._judge(path, compiled, step)

    def _promises(self, path: Path, step: Step) -> Iterator[Item]:
        if reason := path.unsupported(path.contract_case, self.device):
            yield Item(f"contract of {path.name}", not_run=reason)
            return
        step.doing = f"contract of {path.name}"
        broken = self._broken(path)
        for what in contract.PROMISES:
            step.counted += 1
            name = f"{path.name}: {what}"
            found = broken.get(what)
            yield Item(name, found.verdict, found.evidence) if found else Item(name)

    def _broken(self, path: Path) -> dict[str, Finding]:
        try:
            if self.isolated:
                pieces = apart(broken_promises, path.name, self.device, timeout=TIMEOUT)
                return next(pieces, {})
            return contract.broken(path, self.device)
        except Ended as ended:
            found = Finding(Verdict.ERROR, str(ended))
            return dict.fromkeys(contract.PROMISES, found)
        except Exception as error:
            found = Finding(Verdict.ERROR, f"{type(error).__name__}: {error}".splitlines()[0])
            return dict.fromkeys(contract.PROMISES, found)

    def _probes(self, step: Step) -> Iterator[Item]:
        bases = [DecodeCase.from_text(text).replace(dtype=d) for text in PROBED for d in DTYPES]
        # By turns, so that each geometry and dtype has some where there is no time for all.
        turns = itertools.zip_longest(*map(sweep, bases))
        cases = [case for turn in turns for case in turn if case is not None]
        for case in self._in_time(step, cases, "probes"):
            yield from self._judged(case, step)
        yield Item("probes", evidence="needles, uniform, integers")

    def _judged(
        self, case: DecodeCase, step: Step, paths: list[Path] | None = None
    ) -> Iterator[Item]:
        """Judge every sound path, or these, on a case, except where torch is known to be wrong."""
        for path, problem in ((p, x) for p in paths or self.sound for x in fitted([case], p)):
            if path.unsupported(problem.case, self.device):
                continue
            if known := known_failure(path, problem, self.device):
                self.excluded[known.name] += 1
                continue
            item = self._judge(path, problem.case, step)
            if item.failed:
                yield item

    def _proof(self, step: Step) -> Iterator[Item]:
        for planted in self._in_time(step, PLANTED, "planted faults"):
            step.doing = planted
            for item in proofs(planted, self.paths, self.seed, self.kernels):
                step.counted += not item.not_run
                yield item

    def _ledger(self, step: Step) -> Iterator[Item]:
        if self.ledger is None:
            yield Item("ledger", not_run="there is no ledger for this device")
            return
        step.doing, measured = "ledger", []
        entries = apart(eager_entries, self.device, timeout=TIMEOUT)
        try:
            for entry in entries if self.isolated else eager_entries(self.device):
                measured.append(entry)
                self.progress(f"ledger: {len(measured)} entries")
                if not step.left:
                    step.cut = f"all entries but {len(measured)}"
                    break
        except (Unrecordable, Ended) as error:
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
        return known_failures(step, self.device, self.seed)

    def _compiled(self, step: Step) -> Iterator[Item]:
        """Drawn positions and values on compiled geometries, in an order that the seed changes."""
        covered = Covered()
        mine = self.kernels if self.device == "cpu" else "triton"
        if (other := touched(self.changed).kernels) not in ("", mine):
            step.cut = (
                f"the {other} kernels, which the change touches and this run does not compile"
            )
        runs = compiled(self.seed, self.kernels, self.device, self.sound)
        for number, one in enumerate(runs):
            if number and not step.left:
                break
            before, step.doing = step.counted, f"{one.path.name} {one.geometry}"
            for case in sampled_cases(_DATA, self.seed, decode_data(one.geometry)):
                yield from self._judged(case, step, [one.path])
            covered.add(one, step.counted - before)
        evidence = covered.text(self.kernels, self.device)
        yield Item("geometries", evidence=evidence, notice=True)

    def _long(self, step: Step) -> Iterator[Item]:
        """Production's lengths; the compiled one not where an interpreter would take hours."""
        lengths = list(map(DecodeCase.from_text, LONG))
        cases = [case for case in lengths if case.mode == "eager" or self.kernels == "cpp"]
        for case in self._in_time(step, cases, "lengths"):
            paths = [path for path in self.sound if case.mode == "eager" or path.static]
            yield from self._judged(case, step, paths)
        yield Item("long contexts", evidence="up to 131072 slots, fewer than 2^31 numbers a cache")

    def _fuzz(self, step: Step) -> Iterator[Item]:
        run = self.seed
        while step.left or run == self.seed:
            run += 1
            for number, case in enumerate(sampled_cases(_FUZZ_BATCH, run)):
                if number and not step.left:
                    break
                yield from self._judged(case, step)
            yield Item(f"drawn with seed {run}", evidence=f"{step.counted} verdicts so far")


# The steps of a run, in their order, each with its share of the time.
PLAN: dict[str, tuple[Callable[[Gate, Step], Iterator[Item]], float]] = {
    "proof that this run can fail": (Gate._proof, 1),
    "kept cases": (Gate._kept, 2),
    "compile contract": (Gate._contract, 2),
    "probes": (Gate._probes, 3),
    "ledger": (Gate._ledger, 2),
    "known failures": (Gate._known, 2),
    "compiled geometries": (Gate._compiled, 3),
    "long contexts": (Gate._long, 2),
    "drawn cases": (Gate._fuzz, 2),
}
