"""Problems for drawn cases."""

from __future__ import annotations

from collections import Counter

from hypothesis import event, reject

from harness.case import DecodeCase, InvalidCase
from harness.paths import PATHS
from harness.paths.path import CONTRACT_CASE
from harness.strategies.paths import fit
from harness.verdict import Problem
from harness.verdict.known_failures import known_failure

EXCLUDED: Counter[str] = Counter()
# The sound paths that take a case without a GQA group, which most drawn cases are.
SOUND = [
    name
    for name, path in PATHS.items()
    if not path.known_wrong and path.refuses(CONTRACT_CASE) is None
]


def problem_for(path: str, case: DecodeCase, **fixed: object) -> Problem:
    """The problem that a drawn case becomes for a path; rejected where none can be judged.

    A case in which a known upstream failure may show is left out, and counted.
    """
    case = fit(case, PATHS[path], **fixed)
    if reason := PATHS[path].unsupported(case, "cpu"):
        event(f"rejected: unsupported, {reason}")
        reject()
    try:
        problem = Problem.of(case)
    except InvalidCase:
        event("rejected: invalid case")
        reject()
    known = known_failure(PATHS[path], problem)
    if known is not None:
        EXCLUDED[known.name] += 1
        event(f"excluded: {known.name}")
        reject()
    return problem
