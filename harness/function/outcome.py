"""What one run of a user's function found, in plain values, so that it can come from another
process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from harness.case.program import Program
from harness.verdict import Finding, LoopJudgement, Verdict
from harness.verdict.precision import Counts


@dataclass(frozen=True)
class Outcome:
    """What one run found.

    ``invalid`` is the reason why no implementation can be judged on the case, or "";
    ``utilisation`` is None where no numbers came back. ``names`` are those of the faults that
    explain the numbers, the best first, and ``sentences`` the diagnosis as text; ``weights`` are
    those of ``EffectiveWeights.to_values``, where they were read off. ``graphs`` counts
    the graphs that were compiled for the case's geometry. ``stderr`` has the last lines that a
    process wrote before it died. ``number`` is that of the call of a loop that failed, from 1,
    ``shows`` says after which calls alone a failure shows, and ``seconds`` is the median time of a
    loop's calls. ``rows`` counts those of a program that were judged. ``notes`` say what is worth a
    look and is no finding. ``precision`` has counts of one call where nothing was found."""

    findings: tuple[Finding, ...] = ()
    invalid: str = ""
    utilisation: float | None = None
    graphs: int = 0
    names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    weights: dict[str, Any] | None = None
    stderr: tuple[str, ...] = ()
    number: int = 0
    shows: str = ""
    seconds: float = 0.0
    rows: int = 0
    notes: tuple[str, ...] = ()
    precision: Counts = field(default_factory=Counts)

    @classmethod
    def found(cls, verdict: Verdict, evidence: str) -> Outcome:
        """The outcome with one finding."""
        return cls((Finding(verdict, evidence),))

    @classmethod
    def of_loop(cls, judged: LoopJudgement) -> Outcome:
        """What the calls of a loop showed."""
        calls = judged.loop.calls
        outcome = cls(
            judged.findings,
            invalid="no call of the loop can be judged" if judged.invalid == calls else "",
            utilisation=judged.utilisation,
            sentences=(f"the output is {judged.as_if}",) if judged.as_if else (),
            seconds=judged.seconds,
        )
        if not judged.findings or judged.verdict is Verdict.UNSUPPORTED:
            return outcome
        return outcome.in_call(judged.number, calls)

    def in_call(self, number: int, calls: int) -> Outcome:
        """This outcome as that of one of several calls."""
        first, *others = self.findings
        found = Finding(first.verdict, f"call {number} of {calls}: {first.evidence}")
        return dataclasses.replace(self, findings=(found, *others), number=number)

    def in_step(self, number: int, program: Program) -> Outcome:
        """This outcome as that of a step of a program, 0 for the program as a whole."""
        first, *others = self.findings
        step = f"step {number} of {len(program.steps)} ({program.steps[number - 1]}): "
        found = Finding(first.verdict, f"{step if number else ''}{first.evidence}")
        return dataclasses.replace(self, findings=(found, *others), number=number)

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK

    @property
    def explicable(self) -> bool:
        """Whether a fault may explain the verdict, so that a diagnosis is worth while."""
        numbers = (Verdict.WRONG, Verdict.NONFINITE, Verdict.LEAK, Verdict.NONDETERMINISTIC)
        alone = not self.number or bool(self.rows)
        return self.verdict in numbers and self.utilisation is not None and alone

    def like(self, other: Outcome) -> bool:
        """Whether this is the same failure, seen on a smaller case: the same verdict, and the
        leading fault still among those that explain it."""
        return self.verdict is other.verdict and (not other.names or other.names[0] in self.names)

    def explained_by(self, other: Outcome) -> Outcome:
        """This outcome with the diagnosis of another one."""
        return dataclasses.replace(
            self, names=other.names, sentences=other.sentences, weights=other.weights
        )

    def to_values(self) -> dict[str, Any]:
        """The outcome in plain values that JSON can hold."""
        findings = [vars(finding) for finding in self.findings]
        return {**vars(self), "findings": findings, "precision": self.precision.to_values()}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Outcome:
        """Read what ``to_values`` gave, after a way through JSON."""
        found = tuple(Finding(Verdict(f["verdict"]), f["evidence"]) for f in values["findings"])
        texts = {name: tuple(values[name]) for name in ("names", "sentences", "stderr", "notes")}
        counts = Counts.from_values(values["precision"])
        return cls(**{**values, "findings": found, **texts, "precision": counts})
