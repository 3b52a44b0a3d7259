"""What a search covered: which classes of cases, and pairs of them, it ran, and which not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.case.classes import classes_in, pairs_in
from harness.function.search import SearchResult

# So many of what was not covered are shown; coverage_values has all.
_SHOWN = 6
_NOT_PRODUCED = "beyond the domain, too slow, or too few cases drawn to tell"


def coverage_words(result: SearchResult) -> Iterator[tuple[str, str]]:
    """What was covered and what not, as sentences with their labels."""
    domain, coverage = result.facts.domain, result.tally.coverage
    classes, pairs = classes_in(domain), list(pairs_in(domain))
    missing = [name for name in classes if name not in coverage.classes]
    missed = [pair for pair in pairs if pair not in coverage.pairs and not {*pair} & {*missing}]
    ran = sum(pair in coverage.pairs for pair in pairs)
    counts = f"{len(classes) - len(missing)} of {len(classes)} classes of cases"
    sizes = ", ".join(coverage.reached())
    yield "covered", f"{counts}, {ran} of {len(pairs)} pairs of them: {sizes}"
    if not result.counts.get("production"):
        yield "", f"no production shape ({_NOT_PRODUCED})"
    texts = [*map(str, missing), *(f"{one} with {other}" for one, other in missed)]
    if texts:
        more = f"; and {len(texts) - _SHOWN} more (--json)" if len(texts) > _SHOWN else ""
        yield "not", "; ".join(texts[:_SHOWN]) + more


def coverage_values(result: SearchResult) -> dict[str, Any]:
    """Cases by class, the number of pairs of classes, and the pairs that were not covered, in plain
    values."""
    domain, coverage = result.facts.domain, result.tally.coverage
    pairs = list(pairs_in(domain))
    return {
        "classes": {str(name): coverage.classes[name] for name in classes_in(domain)},
        "pairs": len(pairs),
        "pairs_not_covered": [
            [str(one), str(other)] for one, other in pairs if (one, other) not in coverage.pairs
        ],
    }
