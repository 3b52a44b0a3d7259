"""Assertions for tests, whose messages give findings, case id, and the command to run it again."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.case import DecodeCase, InvalidCase
from harness.case.domain import outside
from harness.case.features import features_of
from harness.function.declarations import Declarations
from harness.function.explanation import explain, further_cases
from harness.function.item import Single
from harness.function.load import target_path
from harness.function.search import repro_command
from harness.function.spec import TargetSpec
from harness.paths import Path
from harness.support.deadline import without_default_deadline
from harness.support.frames import users_own
from harness.verdict import Finding, Problem, Verdict, judge


def assert_clean(path: str, case: DecodeCase, findings: Sequence[Finding]) -> None:
    """Fail if there are findings of ``path`` on ``case``.

    Raises:
        AssertionError: with each finding, the case id, the repro command, and how to keep the case.
    """
    __tracebackhide__ = True
    if not findings:
        return
    quoted = shlex.quote(str(case))
    lines = [
        *_found(path, findings),
        f"case:  {case}",
        f"repro: python -m harness repro {quoted}",
        f"keep:  python -m harness keep NAME {quoted} --path {path} --source WHERE-FROM",
    ]
    raise AssertionError("\n".join(lines))


def _found(name: str, findings: Sequence[Finding]) -> list[str]:
    return [f"{name} is {findings[0].verdict}", *(f"  {f.verdict}: {f.evidence}" for f in findings)]


@dataclass
class Record:
    """What ``assert_decodes`` saw in the running test: the largest utilisation of the budget, the
    latest case that failed and, where numbers came back, a function that gives the diagnosis of it
    in lines, since only the last and smallest failure is worth the seconds. The pytest plugin
    empties the record before each test."""

    utilisation: float | None = None
    failed: DecodeCase | None = None
    explain: Callable[[], list[str]] | None = None

    def clear(self) -> None:
        """Forget all."""
        self.utilisation = self.failed = self.explain = None


RECORD = Record()
# Verdicts whose evidence is an exception.
_RAISED = (Verdict.ERROR, Verdict.CRASH, Verdict.OOM)


def assert_decodes(
    function: Callable[..., Any],
    case: DecodeCase | str,
    *,
    device: str = "cpu",
    precision: Mapping[str, Any] | None = None,
) -> None:
    """Fail unless ``function`` is right on ``case``, which may be an id, ``"S=64,pos=63"``.

    The function has the signature that ``python -m harness check`` takes, and may have the same
    attributes. A case is left out where the function raises NotImplementedError, where its
    ``dtypes``, ``head_dims`` or ``requires`` do not allow it, or where no implementation can be
    judged on it: Hypothesis rejects the example, or else pytest skips the test.

    Args:
        precision: the dtypes in which the function declares to compute, see ``Declarations``,
            instead of its attribute ``precision``.

    Raises:
        AssertionError: with each finding, the case id and, for a function that can be imported,
            the repro command. Its cause is the exception that the function raised, if any.
        CaseError: for text that is no id; the message names the field and what is allowed.
        ValueError: for a case that is outside the domain of every user's function, or an attribute
            of the function that declares something unknown.
    """
    __tracebackhide__ = True
    without_default_deadline()
    if isinstance(case, str):
        case = DecodeCase.from_text(case)
    if reason := outside(case):
        raise ValueError(f"{case}: {reason}")
    declared = Declarations.of(function, Declarations(precision=precision))
    name = getattr(function, "__qualname__", type(function).__name__)
    precisions = declared.precisions()
    raised: list[BaseException] = []
    path = target_path(
        name,
        function,
        declared.around(case),
        precisions[case.dtype],
        [lambda: _remembering(raised)],
    )
    try:
        judgement = judge(path, Problem.of(case), device)
    except InvalidCase as error:
        _leave_out(f"invalid case: {error}")
        return
    if judgement.verdict is Verdict.UNSUPPORTED:
        _leave_out(judgement.findings[0].evidence)
        return
    if judgement.error is not None:
        RECORD.utilisation = max(RECORD.utilisation or 0.0, judgement.error.utilisation)
    if not judgement.findings:
        return
    RECORD.failed, RECORD.explain = case, None
    if judgement.error is not None:
        RECORD.explain = functools.partial(_explained, path, case, device, declared)
    lines = [*_found(name, judgement.findings), f"case:  {case}"]
    if (target := target_of(function)) is not None:
        usual = declared.domain()
        missing = Declarations(
            supports=None if set(features_of(case)) <= set(usual.features) else features_of(case),
            head_dims=None if case.head_dim in usual.head_dims else (case.head_dim,),
            precision=precision,
        )
        spec = TargetSpec(target, device, missing)
        lines.append(f"repro: {repro_command(spec, Single(case))}")
    failed = AssertionError("\n".join(lines))
    if judgement.verdict in _RAISED and raised:
        raise failed from users_own(raised[0])
    raise failed


@contextmanager
def _remembering(raised: list[BaseException]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        raised.append(error)
        raise


def _explained(path: Path, case: DecodeCase, device: str, declared: Declarations) -> list[str]:
    cases = functools.cache(functools.partial(further_cases, declared.domain()))
    return explain(path, Problem.of(case), device, further=cases)[0].lines


def _leave_out(reason: str) -> None:
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None and hypothesis.currently_in_test_context():
        hypothesis.event(f"left out: {reason}")
        hypothesis.reject()
    import pytest  # noqa: PLC0415  # Only tests get here, so pytest is installed.

    pytest.skip(reason)


def target_of(function: Callable[..., Any]) -> str | None:
    """The TARGET with which ``check`` can import a function, or None where it cannot."""
    name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", "")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    # A method bound to an object, say, is not what its name gives.
    if found is None or found != function:
        return None
    if "." in module:
        return f"{module}:{name}"
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return None
    return None if file is None else f"{os.path.relpath(file)}:{name}"
