"""For tests: an assertion whose message says what was found, how to see it again and keep it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.case import DecodeCase
from harness.verdict import Finding


def assert_clean(path: str, case: DecodeCase, findings: Sequence[Finding]) -> None:
    """Fail if anything was found of ``path`` on ``case``.

    Raises:
        AssertionError: with each finding, the case id, the repro command, and how to keep the case.
    """
    __tracebackhide__ = True
    if not findings:
        return
    quoted = shlex.quote(str(case))
    lines = [
        f"{path} is {findings[0].verdict}",
        *(f"  {finding.verdict}: {finding.evidence}" for finding in findings),
        f"case:  {case}",
        f"repro: python -m harness repro {quoted}",
        f"keep:  python -m harness keep NAME {quoted} --path {path} --source WHERE-FROM",
    ]
    raise AssertionError("\n".join(lines))
