"""What a gate checks, one item at a time, and the processes in which it runs the paths."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from harness.case import DecodeCase
from harness.function.outcome import Outcome
from harness.function.run import LocalRunner
from harness.function.spec import TargetError, TargetSpec
from harness.function.worker import Worker
from harness.verdict import Verdict

TIMEOUT = 300.0


@dataclass(frozen=True)
class Item:
    """One thing that was checked.

    A ``notice`` is shown in the summary and passes whatever its verdict. ``not_run`` is the reason
    why nothing was checked, or "". ``why`` is the diagnosis, ``repro`` the command that runs the
    case again, or the case itself, and ``path`` the path that was judged, or "".
    """

    name: str
    verdict: Verdict = Verdict.OK
    evidence: str = ""
    why: tuple[str, ...] = ()
    repro: str = ""
    notice: bool = False
    not_run: str = ""
    path: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether this makes the gate red."""
        return not self.verdict.passes and not self.notice


@dataclass
class Step:
    """One step of the gate: items of one kind, and the number of verdicts behind them.

    It is to end ``until`` then, by ``time.monotonic``; ``doing`` is the name of what it runs, and
    ``cut`` says what of it was left out for want of time, or ""."""

    name: str
    until: float = math.inf
    items: list[Item] = field(default_factory=list)
    counted: int = 0
    seconds: float = 0.0
    doing: str = ""
    cut: str = ""

    @property
    def left(self) -> float:
        """The seconds that are left for it."""
        return max(0.0, self.until - time.monotonic())

    @property
    def failures(self) -> list[Item]:
        """The items that make the gate red."""
        return [item for item in self.items if item.failed]


class Paths:
    """Runs every path in a process of its own, which is replaced when it dies, or in this one."""

    def __init__(self, device: str, isolated: bool) -> None:
        self.device, self.isolated = device, isolated
        self._runners: dict[str, Worker | LocalRunner] = {}

    def of(self, name: str) -> Worker | LocalRunner:
        """The runner of one path, made when it is first needed."""
        if name not in self._runners:
            spec = TargetSpec(name, self.device)
            self._runners[name] = Worker(spec, TIMEOUT) if self.isolated else LocalRunner(spec)
        return self._runners[name]

    def judge(self, name: str, case: DecodeCase, *, explain: bool) -> Item:
        """Judge one path on one case; with ``explain``, with a diagnosis where it fails."""
        start = time.monotonic()
        try:
            runner = self.of(name)
            outcome = runner.run(case)
            if explain and not outcome.verdict.passes:
                outcome = runner.diagnosed(case, outcome)
        except TargetError as error:
            # Its processes are gone; the next case gets others.
            if isinstance(gone := self._runners.pop(name, None), Worker):
                gone.close()
            outcome = Outcome.found(Verdict.ERROR, str(error))
        return _item_of(name, case, self.device, outcome, time.monotonic() - start)

    def close(self) -> None:
        """End all processes."""
        for runner in self._runners.values():
            if isinstance(runner, Worker):
                runner.close()


def _item_of(name: str, case: DecodeCase, device: str, outcome: Outcome, seconds: float) -> Item:
    on = "" if device == "cpu" else f" --device {device}"
    return Item(
        f"{name} {case}",
        outcome.verdict,
        "; ".join(f.evidence for f in outcome.findings),
        outcome.sentences,
        f"python -m harness repro '{case}'{on}",
        not_run=outcome.findings[0].evidence if outcome.verdict is Verdict.UNSUPPORTED else "",
        path=name,
        seconds=seconds,
    )
