"""Verdicts: how a path is judged on a case, in one word and with the evidence for it."""

from harness.verdict.handing import handed
from harness.verdict.judgement import Finding, Judgement, Problem, Verdict, judgeable
from harness.verdict.judging import (
    attempt,
    beyond_budget,
    changes_on_repeat,
    compare,
    differs,
    errors_of,
    inexact,
    judge,
    leaks,
    malformed,
    mutations,
    nonfinite,
)
from harness.verdict.loops import LoopJudgement, judge_loop

__all__ = [
    "Finding",
    "Judgement",
    "LoopJudgement",
    "Problem",
    "Verdict",
    "attempt",
    "beyond_budget",
    "changes_on_repeat",
    "compare",
    "differs",
    "errors_of",
    "handed",
    "inexact",
    "judge",
    "judge_loop",
    "judgeable",
    "leaks",
    "malformed",
    "mutations",
    "nonfinite",
]
