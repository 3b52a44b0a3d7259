"""A state machine for a project's own tests of its cache class."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

from harness.case.domain import Domain
from harness.case.program import Program
from harness.function.classes import ClassTarget
from harness.function.declarations import Declarations
from harness.function.programs import program_command
from harness.function.spec import TargetSpec
from harness.function.testing import target_of
from harness.strategies.programs import machine
from harness.support.deadline import without_default_deadline


def cache_machine(cls: type, *, device: str = "cpu") -> type[RuleBasedStateMachine]:
    """A Hypothesis state machine that judges programs of a serving loop on a cache class.

    Its ``TestCase`` is a test that pytest and unittest collect::

        TestMyCache = cache_machine(MyCache).TestCase

    Hypothesis shrinks a failure and keeps it in its database. The class has the contract, and may
    have the attributes, that ``python -m harness check`` reads.

    Raises:
        TargetError: for a class that is no cache, or that declares something unknown.
    """
    target = ClassTarget.of(cls, Declarations.of(cls), cache_len=Domain.cache_len, device=device)

    def run(program: Program) -> None:
        __tracebackhide__ = True
        without_default_deadline()
        outcome = target.run(program)
        if outcome.invalid or outcome.verdict.passes:
            return
        outcome = target.explained(program, outcome) if outcome.explicable else outcome
        lines = [f"{cls.__name__} is {outcome.verdict}: {program.sentence}"]
        lines += [f"  {finding.verdict}: {finding.evidence}" for finding in outcome.findings]
        lines += [f"  {sentence}" for sentence in outcome.sentences]
        if (name := target_of(cls)) is not None:
            lines.append(f"repro: {program_command(TargetSpec(name, device), program)}")
        raise AssertionError("\n".join(lines))

    made = machine(run, target.cache.abilities, target.domain)
    made.__name__ = made.__qualname__ = f"{cls.__name__}Machine"
    # Judging takes longer than Hypothesis expects of a step.
    made.TestCase.settings = settings(
        deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
    )
    return made
