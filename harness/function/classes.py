"""A user's cache class: run on programs, as a function is on cases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from harness.case import InvalidCase
from harness.case.domain import Domain
from harness.case.precision import Precision
from harness.case.program import Program
from harness.case.tails import POISON
from harness.function.declarations import Declarations
from harness.function.outcome import Outcome
from harness.function.spec import TargetError
from harness.serving.attended import attended, explained
from harness.serving.contract import Abilities, ContractError
from harness.serving.judging import HOLDS, ProgramJudgement, judge_program
from harness.serving.session import CacheClass
from harness.verdict import Verdict

# Features that a class may declare; what else it takes shows in its methods and arguments.
_DECLARED = ("nonfinite_tail",)


@dataclass(frozen=True)
class ClassTarget:
    """A cache class, as it is run: on ``device``, with its ``precisions`` by dtype, each step
    within ``around()``; ``begun`` gets the number of each step before it is taken."""

    cache: CacheClass
    domain: Domain
    device: str
    precisions: dict[str, Precision]
    reuses_output: bool
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    begun: Callable[[int], None] = lambda number: None

    @classmethod
    def of(cls, given: type, declared: Declarations, **others: Any) -> ClassTarget:
        """The target with what a class declares and shows.

        Raises:
            TargetError: for a class that is no cache, or that declares what its methods show.
        """
        try:
            abilities = Abilities.of(given)
        except ContractError as error:
            raise TargetError(str(error)) from None
        allowed = {"supports": _DECLARED, "requires": abilities.features}
        for field, names in allowed.items():
            for name in getattr(declared, field) or ():
                if name not in names:
                    shown = " ".join(names) or "nothing"
                    raise TargetError(f"{field}: a class may declare {shown}, not {name}")
        nonfinite = "nonfinite_tail" in (declared.supports or ())
        cache = CacheClass(given, abilities, math.nan if nonfinite else POISON)
        features = (*abilities.features, *(declared.supports or ()))
        domain = dataclasses.replace(declared, supports=features)
        return cls(
            cache=cache,
            domain=domain.domain(others.pop("cache_len")),
            precisions=declared.precisions(),
            reuses_output=bool(declared.reuses_output),
            **others,
        )

    def run(self, program: Program) -> Outcome:
        """Judge the class on a program."""
        try:
            judged = self._judged(program)
        except InvalidCase as error:
            return Outcome(invalid=str(error))
        outcome = Outcome(judged.findings, utilisation=judged.utilisation, rows=judged.rows)
        if not judged.findings or judged.verdict is Verdict.UNSUPPORTED:
            return outcome
        return outcome.in_step(judged.number, program)

    def explained(self, program: Program, outcome: Outcome) -> Outcome:
        """The outcome with what the wrong row attends, and whether the cache holds the tokens."""
        judged = self._judged(program)
        found = list(self._attended(program, judged))
        for finding in judged.findings:
            if finding.evidence.startswith(HOLDS):
                text = f"the cache itself {finding.evidence}"
                found.append(("cache-content", f"{text}: it was written, moved or kept wrongly"))
                break
        return dataclasses.replace(
            outcome,
            names=tuple(name for name, _ in found),
            sentences=tuple(sentence for _, sentence in found),
        )

    def _attended(self, program: Program, judged: ProgramJudgement) -> Iterator[tuple[str, str]]:
        if judged.at is None:
            return
        precision = self.precisions[program.case.dtype]
        seen = attended(
            self.cache, program, self.device, judged.number, judged.at, precision, self.around
        )
        if seen is not None:
            yield from explained(seen)

    def _judged(self, program: Program) -> ProgramJudgement:
        return judge_program(
            self.cache,
            program,
            self.device,
            self.precisions[program.case.dtype],
            reuses_output=self.reuses_output,
            around=self.around,
            begun=self.begun,
        )
