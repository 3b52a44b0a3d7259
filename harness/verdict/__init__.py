"""One word for each path and case, with its evidence."""

from harness.verdict.judgement import Finding, Judgement, Problem, Verdict, judgeable
from harness.verdict.judging import (
    attempt,
    beyond_budget,
    changes_on_repeat,
    compare,
    errors_of,
    inexact,
    judge,
    leaks,
    malformed,
    mutations,
    nonfinite,
)

__all__ = [
    "Finding",
    "Judgement",
    "Problem",
    "Verdict",
    "attempt",
    "beyond_budget",
    "changes_on_repeat",
    "compare",
    "errors_of",
    "inexact",
    "judge",
    "judgeable",
    "leaks",
    "malformed",
    "mutations",
    "nonfinite",
]
