"""One run of a user's function on one case, in this process.

Arguments and results of a run are plain values, so that it can happen in a worker process too.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.case import DTYPES, DecodeCase, InvalidCase
from harness.case.domain import Domain, DomainError
from harness.case.loop import Loop
from harness.case.precision import Precision
from harness.case.program import Program, Task
from harness.function.classes import ClassTarget
from harness.function.declarations import Declarations, hints
from harness.function.explanation import BLOCKS, FURTHER, explain, further_cases
from harness.function.load import Watch, check_signature, load, target_path
from harness.function.outcome import Outcome
from harness.function.repeats import Repeats
from harness.function.spec import TargetError, TargetSpec
from harness.paths import PATHS, Path, Result
from harness.serving.contract import Abilities
from harness.support import extras
from harness.support.environment import environment
from harness.verdict import (
    Finding,
    Judgement,
    Problem,
    Verdict,
    attempt,
    differs,
    judge,
    judge_loop,
)
from harness.verdict.precision import Counts, observe

# What Triton says where there is no GPU.
_TRITON_WITHOUT_GPU = ("active drivers", "Cannot call @triton.jit")


@dataclass(frozen=True)
class Facts:
    """What is known of a loaded target: the cases that it takes, its precision for each dtype of
    the inputs, where it runs, hints at what it may have meant to declare, whether it declares
    that it hands out the same buffer again, and of a cache class its ``abilities``."""

    domain: Domain
    environment: dict[str, Any]
    precisions: dict[str, Precision]
    hints: tuple[str, ...] = ()
    reuses_output: bool = False
    abilities: Abilities | None = None

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Facts:
        """Read what ``dataclasses.asdict`` gave, after a way through JSON."""
        domain, abilities = values["domain"], values["abilities"]
        return cls(
            Domain(**domain | {"cache_len": tuple(domain["cache_len"])}),
            values["environment"],
            {dtype: Precision(**given) for dtype, given in values["precisions"].items()},
            tuple(values["hints"]),
            values["reuses_output"],
            None if abilities is None else Abilities.from_values(abilities),
        )


@dataclass
class LocalRunner:
    """Loads a target and runs it in this process; ``write_down`` gets each case before it runs, and
    each call of a function is made within ``around()``.

    Raises:
        TargetError: where the target cannot be loaded, or declares something unknown.
    """

    spec: TargetSpec
    write_down: Callable[[Task], None] = lambda case: None
    begun: Callable[[int], None] = lambda number: None
    history: list[Loop | Program] = field(default_factory=list)
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    block: int = BLOCKS[0]
    paths: dict[str, Path] = field(init=False)
    facts: Facts = field(init=False)
    repeats: Repeats = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)
    cache: ClassTarget | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        spec = self.spec
        self.repeats = Repeats(spec.device)
        if spec.target in PATHS:
            path = PATHS[spec.target]
            self.paths = dict.fromkeys(DTYPES, path)
            precisions = dict.fromkeys(DTYPES, path.precision)
            self.facts = Facts(Domain(), environment(spec.device), precisions)
            return
        function = load(spec.target)
        try:
            declared = Declarations.of(function, spec.declared)
            if isinstance(function, type):
                self._load_class(function, declared)
                return
            domain = declared.domain(spec.cache_len)
        except DomainError as error:
            raise TargetError(str(error)) from None
        check_signature(function, domain)
        precisions = declared.precisions()
        watch: Watch | None = None
        if spec.triton:
            from harness.function.sanitizer import sanitized

            watch = functools.partial(sanitized, note=self.notes.append)
        self.paths = {
            dtype: target_path(spec.target, function, domain, precision, [self.around], watch)
            for dtype, precision in precisions.items()
        }
        seen = hints(function, domain.features)
        again = bool(declared.reuses_output)
        self.facts = Facts(domain, environment(spec.device), precisions, seen, again)

    def _load_class(self, function: type, declared: Declarations) -> None:
        """Take a class as a cache class; raises TargetError where it is none."""
        spec = self.spec
        if spec.triton:
            raise TargetError("--triton: watches the kernels of functions, not of classes")
        self.cache = ClassTarget.of(
            function,
            declared,
            cache_len=spec.cache_len,
            device=spec.device,
            around=self.around,
            begun=self.begun,
        )
        self.facts = Facts(
            self.cache.domain,
            environment(spec.device),
            self.cache.precisions,
            reuses_output=self.cache.reuses_output,
            abilities=self.cache.cache.abilities,
        )

    def fresh(self) -> bool:
        """Whether nothing has run in this process, which is the only one."""
        return not self.history

    def run(self, case: Task, *, timeout: float | None = None, last_alone: bool = False) -> Outcome:
        """Judge the target on ``case``, or on a loop, or ``last_alone`` on its last call;
        ``timeout`` is ignored, since it would need a worker."""
        device = self.spec.device
        self.write_down(case)
        self.history.append(Loop(case) if isinstance(case, DecodeCase) else case)
        if isinstance(case, Program):
            assert self.cache is not None
            return self.cache.run(case)
        if isinstance(case, Loop):
            return self._of_loop(case, last_alone)
        path = self.paths[case.dtype]
        if reason := path.unsupported(case, device):
            return Outcome.found(Verdict.UNSUPPORTED, reason)
        try:
            problem = Problem.of(case)
        except InvalidCase as error:
            return Outcome(invalid=str(error))
        self.notes.clear()
        start = time.monotonic()
        judgement = judge(path, problem, device)
        findings = judgement.findings or self._order_matters(problem, judgement)
        # Triton's interpreter runs one program after the other, and takes long for it.
        repeats = self.spec.target not in PATHS and not self.spec.triton
        if repeats and not findings and judgement.output is not None:
            seconds = time.monotonic() - start
            findings = tuple(self.repeats.of(path, problem, judgement.output, seconds))
        return Outcome(
            tuple(map(_with_remedy, findings)),
            utilisation=judgement.error.utilisation if judgement.error else None,
            graphs=path.graphs(case, device),
            notes=tuple(dict.fromkeys(self.notes)),
            precision=Counts() if findings else observe(problem, judgement, path.precision),
        )

    def _of_loop(self, loop: Loop, last_alone: bool) -> Outcome:
        # Later calls of a loop may have other lengths than the domain has around its first case.
        path = dataclasses.replace(self.paths[loop.case.dtype], declines=lambda case: None)
        judged = judge_loop(
            path,
            loop,
            self.spec.device,
            reuses_output=self.facts.reuses_output,
            last_alone=last_alone,
            begun=self.begun,
        )
        return Outcome.of_loop(judged)

    def _order_matters(self, problem: Problem, judgement: Judgement) -> tuple[Finding, ...]:
        """A finding where the result depends on the order in which a kernel's programs run."""
        if not self.spec.triton or judgement.output is None:
            return ()
        from harness.function.sanitizer import reversed_programs

        with reversed_programs():
            second = attempt(self.paths[problem.case.dtype], problem.inputs.clone())
        what = "the programs of each grid run in reverse order"
        return tuple(differs(Verdict.NONDETERMINISTIC, what, Result(judgement.output), second))

    def diagnosed(
        self, case: DecodeCase | Program, outcome: Outcome, *, brief: bool = False
    ) -> Outcome:
        """``outcome`` with a diagnosis; with ``brief``, without drawing further cases.

        Faults at block edges depend on the block size of the target's kernel, which is not known,
        so several are tried. One with which a fault was found comes first the next time, but where
        further cases are drawn: what is told of a case does not depend on what came before.
        """
        if not outcome.explicable:
            return outcome
        if isinstance(case, Program):
            assert self.cache is not None
            return self.cache.explained(case, outcome)
        blocks = dict.fromkeys((self.block, *BLOCKS)) if brief else BLOCKS
        diagnosis, block = explain(
            self.paths[case.dtype],
            Problem.of(case),
            self.spec.device,
            () if self.spec.target in PATHS else blocks,
            tuple if brief else lambda: self._further,
            names_alone=brief,
        )
        self.block = block or self.block
        weights = None if diagnosis.weights is None else diagnosis.weights.to_values()
        return dataclasses.replace(
            outcome, names=diagnosis.names, sentences=tuple(diagnosis.lines), weights=weights
        )

    @functools.cached_property
    def _further(self) -> list[DecodeCase]:
        """Further cases that tell faults apart; of a path none where Hypothesis is missing."""
        if self.spec.target in PATHS:
            if extras.missing("strategies"):
                return []
            from harness.strategies.paths import fit, sampled_cases

            path = PATHS[self.spec.target]
            return [fit(case, path) for case in sampled_cases(FURTHER, 1)]
        return further_cases(self.facts.domain)


def _with_remedy(finding: Finding) -> Finding:
    """The finding, with what to do where a function launches Triton kernels without a GPU."""
    if not any(text in finding.evidence for text in _TRITON_WITHOUT_GPU):
        return finding
    remedy = (
        "it launches Triton kernels, which needs a GPU (--device cuda), or Triton's interpreter:"
        " --triton"
    )
    return Finding(finding.verdict, remedy)


def poisoned(device: str) -> bool:
    """Whether a CUDA error has made this process's context unusable."""
    if torch.device(device).type != "cuda":
        return False
    try:
        torch.zeros(1, device=device).cpu()
    except RuntimeError:
        return True
    return False
