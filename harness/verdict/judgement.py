"""Problem, verdict, finding and judgement: what is judged, and what comes of it."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from harness.case import DecodeCase, InvalidCase
from harness.case.precision import Precision
from harness.inputs import Inputs, make_inputs
from harness.oracle.budget import Budget, budget
from harness.oracle.error import Error
from harness.oracle.golden import Golden, golden


class Verdict(enum.StrEnum):
    """The outcome of one path on one case, in one word."""

    OK = "OK"
    UNSUPPORTED = "UNSUPPORTED"
    MUTATED = "MUTATED"
    WRONG = "WRONG"
    NONFINITE = "NONFINITE"
    LEAK = "LEAK"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    OUT_OF_BOUNDS = "OUT_OF_BOUNDS"
    UNINITIALISED = "UNINITIALISED"
    RACE = "RACE"
    STALE = "STALE"
    RETAINED = "RETAINED"
    IMPRECISE = "IMPRECISE"
    REGRESSED = "REGRESSED"
    ERROR = "ERROR"
    OOM = "OOM"
    CRASH = "CRASH"
    TIMEOUT = "TIMEOUT"

    @property
    def passes(self) -> bool:
        """Whether this verdict leaves the exit code at 0."""
        return self in (Verdict.OK, Verdict.UNSUPPORTED)


@dataclass(frozen=True)
class Finding:
    """A verdict and the evidence for it."""

    verdict: Verdict
    evidence: str


class Violation(Exception):
    """What a path does that no path may do, seen while it runs: its ``finding`` ends the run."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.evidence)
        self.finding = finding


@dataclass(frozen=True)
class Problem:
    """A case with its inputs (on the CPU) and its golden, by which every path on it is judged."""

    case: DecodeCase
    inputs: Inputs
    golden: Golden
    _bounds: dict[tuple[Precision, bool], Budget] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, case: DecodeCase) -> Problem:
        """Draw the inputs and compute golden.

        Raises:
            InvalidCase: where no implementation can be judged on the case, see ``golden``.
        """
        inputs = make_inputs(case)
        return cls(case, inputs, golden(inputs))

    @classmethod
    def given(cls, inputs: Inputs) -> Problem:
        """The problem of inputs that may have been changed since they were drawn; raises as ``of``
        does."""
        inputs = dataclasses.replace(inputs, tail_draws=None)
        return cls(inputs.case, inputs, golden(inputs))

    def bound(self, precision: Precision, *, tensor_cores: bool = False) -> Budget:
        """The rounding budget for a declared precision, computed once."""
        key = precision, tensor_cores
        if key not in self._bounds:
            self._bounds[key] = budget(
                self.inputs, self.golden, precision, tensor_cores=tensor_cores
            )
        return self._bounds[key]

    @functools.cached_property
    def checksums(self) -> dict[str, int]:
        """Those of the inputs' caches, computed once."""
        return self.inputs.checksums()


def judgeable(cases: Iterable[DecodeCase]) -> Iterator[Problem]:
    """The problems of those cases on which implementations can be judged; others are left out."""
    for case in cases:
        try:
            problem = Problem.of(case)
        except InvalidCase:
            continue
        yield problem


@dataclass(frozen=True)
class Judgement:
    """What was found about one path on one case.

    ``findings`` are in the order in which they were looked for; the first gives the verdict, which
    is OK without any. ``error``, of the output, and ``logsumexp_error`` are None where the path
    returned nothing comparable. ``output`` ``[B, Hq, Q, Dv]`` is on the CPU.
    """

    path: str
    case: DecodeCase
    device: str
    findings: tuple[Finding, ...] = ()
    error: Error | None = None
    logsumexp_error: Error | None = None
    output: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """The first finding's verdict, or OK."""
        return self.findings[0].verdict if self.findings else Verdict.OK

    @property
    def verdicts(self) -> str:
        """The verdicts of all findings, the leading one first, each once: ``LEAK, WRONG``."""
        return ", ".join(dict.fromkeys(f.verdict for f in self.findings)) or Verdict.OK
