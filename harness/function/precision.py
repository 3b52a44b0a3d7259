"""One case that shows by itself that a function is imprecise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from harness.case import DecodeCase
from harness.function.item import Item, Runner, Single
from harness.support.progress import Progress
from harness.verdict import Finding
from harness.verdict.imprecise import imprecise

# So many cases are tried, each a call with many rows.
_TRIES = 8
# A case has so many rows; of these so many are counted as its length and head dim allow, which are
# lowered to so many elements of keys for each row.
_ROWS, _ELEMENTS = 256, 2**13


def demonstration(
    runner: Runner, counted: Sequence[DecodeCase], findings: Sequence[Finding], progress: Progress
) -> Item | None:
    """The first case found on which the function is imprecise in a dtype of ``findings``; None
    where no case alone shows it.

    Args:
        counted: the cases of the search whose rows were counted.
    """
    wanted = {finding.evidence.partition(":")[0].split()[0] for finding in findings}
    cases = dict.fromkeys(
        larger for case in counted if case.dtype in wanted for larger in _larger(runner, case)
    )
    for case in list(cases)[:_TRIES]:
        progress(f"imprecise; trying whether {case} shows it alone")
        outcome = runner.run(case)
        if imprecise(outcome.precision):
            return Single(case)
    return None


def _larger(runner: Runner, case: DecodeCase) -> Iterator[DecodeCase]:
    """The case with more rows, of the smallest head dim, where a function takes that."""
    domain = runner.facts.domain
    more = -(-_ROWS // (case.batch * case.heads * case.q_len))
    if case.cache_len * case.head_dim > _ELEMENTS:
        case = case.replace(head_dim=min(domain.head_dims))
    case = dataclasses.replace(case, heads=case.heads * more, kv_heads=case.kv_heads * more)
    if domain.refuses(case) is None:
        yield case
