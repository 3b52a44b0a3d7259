"""The result of ``check``, as text for a terminal and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator
from typing import Any

from harness.function.search import SearchResult
from harness.support.environment import one_line
from harness.verdict import Verdict

WIDTH = 100


def render(result: SearchResult) -> str:
    """The result as text for a terminal, whose first word is the verdict."""
    lines = [_first(result)]
    for finding in result.outcome.findings:
        lines += _wrapped(f"{finding.verdict}: {finding.evidence}")
    if result.case is not None:
        lines.append(f"case       {result.case}")
        if result.drawn is not None and result.drawn.case != result.case:
            lines.append(f"           shrunk from {result.drawn.case}")
        lines += _wrapped(*result.outcome.stderr, label="stderr")
        lines += _wrapped(*result.outcome.sentences, label="diagnosis")
        lines.append(f"repro      {result.repro}")
        lines.append("script     the same with --script FILE writes one that needs torch alone")
    lines += _figures(result)
    return "\n".join(lines) + "\n"


def _first(result: SearchResult) -> str:
    """The verdict and the target; between them, where OK stands for few cases, of how many."""
    tally = result.tally
    if result.verdict is not Verdict.OK or not tally.mostly_unsupported:
        return f"{result.verdict} {result.spec.target}"
    judged = f"on {tally.examples} of {tally.examples + tally.refused} cases alone"
    return f"OK {judged}, the others are UNSUPPORTED: {result.spec.target}"


def _wrapped(*sentences: str, label: str = "") -> Iterator[str]:
    for index, sentence in enumerate(sentences):
        start = f"{'' if index else label:11}"
        yield from textwrap.wrap(sentence, WIDTH, initial_indent=start, subsequent_indent=" " * 11)


def _figures(result: SearchResult) -> Iterator[str]:
    tally = result.tally
    examples = f"{tally.examples} in {result.seconds:.1f} s"
    if tally.invalid:
        examples += f"; {tally.invalid} on which no implementation can be judged"
    yield f"examples   {examples}"
    covered = ", ".join(f"{name} {tally.features[name]}" for name in result.facts.domain.features)
    yield from _wrapped(covered or "none declared", label="features")
    yield from _wrapped(*result.facts.hints, label="hint")
    if tally.max_utilisation is not None:
        yield f"worst      {tally.max_utilisation:.3g} rounding budgets, {tally.worst_case}"
    if tally.graphs:
        graphs = sum(tally.graphs.values())
        yield f"graphs     {graphs} for {len(tally.graphs)} geometries"
    for reason, count in tally.unsupported.most_common():
        yield f"           {Verdict.UNSUPPORTED} {count} times: {reason}"
    yield from _wrapped(one_line(result.facts.environment), label="with")


def to_json(result: SearchResult) -> str:
    """The result as JSON; a number that is not finite is null."""
    tally, outcome = result.tally, result.outcome
    document: dict[str, Any] = {
        "target": result.spec.target,
        "verdict": result.verdict,
        "findings": [vars(finding) for finding in outcome.findings],
        "case": None if result.case is None else str(result.case),
        "shrunk_from": None if result.drawn is None else str(result.drawn.case),
        "stderr": list(outcome.stderr),
        "diagnosis": list(outcome.names),
        "diagnosis_text": list(outcome.sentences),
        "repro": result.repro,
        "examples": tally.examples,
        "mostly_unsupported": tally.mostly_unsupported,
        "invalid": tally.invalid,
        "unsupported": dict(tally.unsupported),
        "features": {name: tally.features[name] for name in result.facts.domain.features},
        "hints": list(result.facts.hints),
        "seconds": round(result.seconds, 3),
        "seconds_by_source": {name: round(spent, 3) for name, spent in result.spent.items()},
        "max_utilisation": _finite(tally.max_utilisation),
        "worst_case": None if tally.worst_case is None else str(tally.worst_case),
        "graphs": sum(tally.graphs.values()),
        "geometries_compiled": len(tally.graphs),
        "environment": result.facts.environment,
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
