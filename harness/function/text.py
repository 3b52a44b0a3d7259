"""The result of ``check``, as text for a terminal and as JSON."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

from harness.function.calls import LONG, Calls
from harness.function.covered import coverage_values, coverage_words
from harness.function.item import Item
from harness.function.search import SearchResult
from harness.support.environment import one_line
from harness.support.strict_json import to_text
from harness.verdict import Verdict
from harness.verdict.imprecise import evidence, precise, shares

WIDTH = 100


def render(result: SearchResult) -> str:
    """The result as text for a terminal, whose first word is the verdict."""
    lines = [_first(result)]
    if result.verdict is Verdict.UNSUPPORTED:
        lines += _unsupported(result)
    for finding in result.outcome.findings:
        lines += wrapped(f"{finding.verdict}: {finding.evidence}")
    if result.case is not None:
        lines.append(f"case       {result.case}")
        lines += _calls(result.item)
        lines += wrapped(*filter(None, [result.outcome.shows]), label="shows")
        lines += wrapped(*result.outcome.stderr, label="stderr")
        lines += wrapped(*result.outcome.sentences, label="diagnosis")
        lines.append(f"repro      {result.repro}")
        if result.scriptable and not isinstance(result.item, Calls):
            lines.append("script     the same with --script FILE writes one that needs torch alone")
    elif result.verdict is Verdict.IMPRECISE:
        lines.append("repro      the same command again: no case alone has rows enough to show it")
    lines += _figures(result)
    return "\n".join(lines) + "\n"


def _first(result: SearchResult) -> str:
    """The verdict and the target; between them, where OK stands for few cases, of how many. No
    verdict where the search was interrupted before a failure."""
    tally = result.tally
    if result.interrupted and result.item is None:
        seen = "no failure so far" if tally.judged else "nothing judged yet"
        return f"INTERRUPTED {result.spec.target}: {seen}"
    if result.interrupted:
        return f"{result.verdict} {result.spec.target} (interrupted, so not the smallest case)"
    if result.verdict is not Verdict.OK or not tally.mostly_unsupported:
        return f"{result.verdict} {result.spec.target}"
    judged = f"on {tally.examples} of {tally.examples + tally.refused} cases alone"
    return f"OK {judged}, the others are UNSUPPORTED: {result.spec.target}"


def _calls(item: Item | None) -> Iterator[str]:
    if isinstance(item, Calls):
        steps = " ".join(map(str, item.loop.steps))
        yield from wrapped(*filter(None, [steps]), label="calls")
        yield from wrapped(*map(str, item.before), label="after")


def _loops(result: SearchResult) -> Iterator[str]:
    tally = result.tally
    if tally.loops:
        kept = f"memory, threads and files watched over {tally.longest} of them"
        if tally.longest < min(LONG):
            kept = "memory, threads and files not watched, since no run of calls was long enough"
        yield f"{tally.loops}, {tally.calls} calls; {kept}"
    elif "loops" in result.spent:
        yield "none with a call that could be judged"
    elif "drawn" in result.spent and "loops" not in result.spent:
        yield "not run: with --compile each of them would be compiled for itself"


def _text(item: Item) -> str:
    return str(item.loop if isinstance(item, Calls) else item.case)


class _Wrapper(textwrap.TextWrapper):
    """Breaks lines at spaces, and behind the commas of a case id."""

    wordsep_simple_re = re.compile(r"(\s+)|(?<=,)(?=\S)")


def wrapped(*sentences: str, label: str = "") -> Iterator[str]:
    """Lines with the label before the first of the sentences, indented below it."""
    for index, sentence in enumerate(sentences):
        start, below = f"{'' if index else label:11}", " " * 11
        yield from _Wrapper(
            WIDTH, initial_indent=start, subsequent_indent=below, break_on_hyphens=False
        ).wrap(sentence)


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _unsupported(result: SearchResult) -> Iterator[str]:
    for reason, count in result.tally.unsupported.most_common():
        yield from wrapped(f"{Verdict.UNSUPPORTED} {count} times: {reason}")


def _figures(result: SearchResult) -> Iterator[str]:
    """What was run, the failing case among it, and how near to the budget that came."""
    tally = result.tally
    loops = f" and {counted(tally.loops, 'loop')}" if tally.loops else ""
    run = f"{counted(tally.examples, 'case')}{loops} judged in {result.seconds:.1f} s"
    if tally.invalid:
        run += f"; {tally.invalid} on which no implementation can be judged"
    if result.drawn is not None and result.drawn != result.item:
        run += f"; the one that failed was shrunk from {_text(result.drawn)}"
    yield from wrapped(run, label="search")
    covered = ", ".join(f"{name} {tally.features[name]}" for name in result.facts.domain.features)
    yield from wrapped(covered or "none declared", label="features")
    yield from wrapped(*result.facts.hints, label="hint")
    yield from wrapped(
        *(f"{n}, in {counted(k, 'case')}" for n, k in tally.notes.items()), label="note"
    )
    if result.item is None and "drawn" in result.counts:
        for label, sentence in coverage_words(result):
            yield from wrapped(sentence, label=label)
    if tally.max_utilisation is not None:
        worst = f"{tally.max_utilisation:.3g} rounding budgets, {tally.worst_case}"
        yield from wrapped(worst, label="worst")
    yield from wrapped(*_loops(result), label="loops")
    yield from wrapped(*_precision(result), label="precision")
    if tally.graphs:
        graphs = sum(tally.graphs.values())
        yield f"graphs     {graphs} for {len(tally.graphs)} geometries"
    if result.verdict is not Verdict.UNSUPPORTED:
        yield from _unsupported(result)
    yield from wrapped(one_line(result.facts.environment), label="with")


def _precision(result: SearchResult) -> Iterator[str]:
    """A sentence for each dtype, and for what is not judged the reason."""
    found = precise(result.tally.precision)
    for dtype in found:
        if dtype.strength is None:
            yield (
                f"{dtype.dtype}: precision not judged: {dtype.all.elements} elements in"
                f" {dtype.all.rows} rows, of which a verdict needs {dtype.needed}"
            )
        elif not dtype.imprecise:
            yield f"{dtype.dtype}: {shares(dtype.all)}"
        elif not result.outcome.findings:
            yield f"{Verdict.IMPRECISE}, allowed: {evidence(dtype)}"
    if not found:
        yield "precision not judged: 0 elements, since no case had random data and enough rows"


def to_json(result: SearchResult) -> str:
    """The result as JSON; a number that is not finite is null."""
    tally, outcome, item = result.tally, result.outcome, result.item
    document: dict[str, Any] = {
        "target": result.spec.target,
        # No verdict is known of a search that was ended before it found a failure.
        "verdict": None if result.interrupted and item is None else result.verdict,
        "interrupted": result.interrupted,
        "findings": [vars(finding) for finding in outcome.findings],
        "case": None if result.case is None else str(result.case),
        "calls": [str(step) for step in item.loop.steps] if isinstance(item, Calls) else [],
        "after": [str(loop) for loop in item.before] if isinstance(item, Calls) else [],
        "failing_call": outcome.number or None,
        "shows": outcome.shows,
        "shrunk_from": None if result.drawn is None else _text(result.drawn),
        "stderr": list(outcome.stderr),
        "diagnosis": list(outcome.names),
        "diagnosis_text": list(outcome.sentences),
        "weights": outcome.weights,
        "repro": result.repro,
        "examples": tally.examples,
        "mostly_unsupported": tally.mostly_unsupported,
        "invalid": tally.invalid,
        "loops": tally.loops,
        "loop_calls": tally.calls,
        "longest_run": tally.longest,
        "unsupported": dict(tally.unsupported),
        "features": {name: tally.features[name] for name in result.facts.domain.features},
        "hints": list(result.facts.hints),
        "notes": dict(tally.notes),
        "coverage": coverage_values(result),
        "seconds": round(result.seconds, 3),
        "items_by_source": result.counts,
        "seconds_by_source": {name: round(spent, 3) for name, spent in result.spent.items()},
        "max_utilisation": tally.max_utilisation,
        "worst_case": None if tally.worst_case is None else str(tally.worst_case),
        "precision": {dtype.dtype: dtype.to_values() for dtype in precise(tally.precision)},
        "graphs": sum(tally.graphs.values()),
        "geometries_compiled": len(tally.graphs),
        "environment": result.facts.environment,
    }
    return to_text(document)
