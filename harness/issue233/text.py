"""The answer of ``repro``, as text for a terminal and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from harness.interpreter.gpu import chosen
from harness.issue233.answer import REPORT_URL, SIDES, Answer, Figure
from harness.oracle.golden import without_second_opinion
from harness.paths import PATHS
from harness.support.environment import environment, one_line
from harness.support.strict_json import to_text
from harness.support.text import table
from harness.verdict import Judgement

WIDTH = 100
# Of the columns of the table but the last; its rows are printed one after the other.
WIDTHS = (max(map(len, PATHS)) + 2, 10, 16, 9, 9, 7)


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= value < 1e5 else f"{value:.3g}"


def _row(judgement: Judgement) -> list[str]:
    error = judgement.error
    name = judgement.path + (" *" if PATHS[judgement.path].known_wrong else "")
    if error is None:
        return [name, "", "", "", "", "", judgement.verdicts]
    where = ",".join(map(str, error.index))
    return [
        name,
        f"{error.relative_l2:.3%}" if error.relative_l2 >= 1e-5 else f"{error.relative_l2:.1e}",
        f"({where})",
        f"{error.actual:.4g}",
        f"{error.golden:.4g}",
        _number(error.utilisation),
        judgement.verdicts,
    ]


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _cells(cells: Sequence[str]) -> str:
    path, *numbers, verdict = cells
    padded = [number.rjust(width) for number, width in zip(numbers, WIDTHS[1:], strict=True)]
    return "  ".join([path.ljust(WIDTHS[0]), *padded, verdict]).rstrip()


def _verdicts(answer: Answer) -> Iterator[str]:
    """The table, as far as paths are judged, then what was found about them all."""
    yield _cells(
        ["path", "rel. error", "worst at b,h,i,d", "got", "should be", "budgets", "verdict"]
    )
    yield _cells(["-" * width for width in (*WIDTHS, len("verdict"))])
    yield from (_cells(_row(judgement)) for judgement in answer.judgements)
    if not answer.judged:
        return
    yield "* known wrong: there to be shown wrong, does not count"
    if answer.case.kernels == "triton" and answer.device == "cpu":
        yield from _interpreted(answer)
    second = answer.second_opinion
    if second is not None:
        yield f"golden and float64 SDPA differ by at most {second:.1e}"
    elif reason := without_second_opinion(answer.case):
        yield f"golden and float64 SDPA were not compared: {reason}"
    for judgement in answer.judgements:
        for finding in judgement.findings:
            yield from textwrap.wrap(
                f"{judgement.path}: {finding.verdict}: {finding.evidence}",
                WIDTH,
                initial_indent="  ",
                subsequent_indent="    ",
            )
        known = answer.known_failures.get(judgement.path)
        if known and not judgement.verdict.passes:
            yield f"  {judgement.path}: a known failure of torch: {known}, see FINDINGS.md"


def _diagnoses(answer: Answer) -> Iterator[str]:
    for judgement in answer.to_explain:
        if judgement.path not in answer.diagnoses:
            return
        yield f"  {judgement.path}:"
        for line in answer.diagnoses[judgement.path].lines:
            yield from _wrapped(line, "    ")


def _interpreted(answer: Answer) -> Iterator[str]:
    """What the numbers are of, and how far they go."""
    lines = [f"the kernels of an {chosen()}, interpreted: a prediction, see docs/triton.md"]
    for judgement in answer.judgements:
        if ran := PATHS[judgement.path].kernels(answer.case, answer.device):
            # Where a setting of the process changed, torch made the same kernel again.
            lines.append(f"{judgement.path}: {', '.join(dict.fromkeys(map(str, ran)))}")
    for line in lines:
        yield from _wrapped(line, "  " if line in lines[1:] else "")


def render(answer: Answer) -> str:
    """The whole answer as text for a terminal."""
    return "\n".join(lines(answer)) + "\n"


def lines(answer: Answer) -> Iterator[str]:
    """The lines of an answer; those of one that is not complete are the first of it."""
    if answer.report:
        yield f"{REPORT_URL}: full cache against sliced cache"
    yield f"case {answer.case}"
    yield one_line(environment(answer.device))
    if len(answer.judgements) < (len(SIDES) if answer.report else 1):
        return
    if answer.finding:
        yield from ("", "1. The answer")
        for sentence in answer.finding:
            yield from _wrapped(sentence, "  ")
        yield from ("", "2. Every side against float64 attention over the filled slots")
    else:
        yield ""
    yield from _verdicts(answer)
    if not answer.judged:
        return
    if answer.to_explain:
        yield from ("", "3. What explains them" if answer.finding else "What explains them")
        yield from _diagnoses(answer)
    if answer.figures:
        yield from ("", f"{_section(answer, 3)}. The report's figures")
        yield from table(
            ["", "report", "here", "over seeds", "reproduces"], [*map(_figure, answer.figures)]
        )
        yield from ("", f"{_section(answer, 4)}. The report's claims")
        for claim in answer.claims:
            yield f'  "{claim.text}": {claim.verdict}'
            yield from _wrapped(claim.evidence, "      ")
    if answer.complete:
        yield from ("", outcome(answer))


def _section(answer: Answer, number: int) -> int:
    return number + bool(answer.to_explain)


def _figure(figure: Figure) -> list[str]:
    span = f"{figure.low:.4f} to {figure.high:.4f}"
    reproduces = "yes" if figure.reproduces else "no"
    return [figure.name, f"{figure.reported:.4f}", f"{figure.ours:.4f}", span, reproduces]


def outcome(answer: Answer) -> str:
    """The last line of the text: whether the outcome is the expected one."""
    if answer.nothing_judged:
        return "nothing could be judged: no path supports this case here"
    if answer.unexpected:
        return "not the expected outcome: " + "; ".join(answer.unexpected)
    return "as expected" if not answer.figures else "the recorded outcome"


def to_json(answer: Answer) -> str:
    """The whole answer as JSON; numbers that are not finite as strict_json spells them."""
    document: dict[str, Any] = {
        "case": str(answer.case),
        "device": answer.device,
        "environment": environment(answer.device),
        "expected": not answer.unexpected and not answer.nothing_judged,
        "unexpected": list(answer.unexpected),
        "golden_minus_float64_sdpa": answer.second_opinion,
        "paths": [
            _judgement(j)
            | {"kernels": list(map(str, PATHS[j.path].kernels(answer.case, answer.device)))}
            for j in answer.judgements
        ],
        "diagnoses": {name: d.to_values() for name, d in answer.diagnoses.items()},
        "known_failures": answer.known_failures,
        "figures": [vars(f) | {"reproduces": f.reproduces} for f in answer.figures],
        "finding": list(answer.finding),
        "claims": [vars(c) for c in answer.claims],
    }
    return to_text(document)


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "path": judgement.path,
        "known_wrong": PATHS[judgement.path].known_wrong,
        "verdict": judgement.verdict,
        "findings": [vars(f) for f in judgement.findings],
        "error": vars(judgement.error) if judgement.error else None,
        "logsumexp_error": vars(judgement.logsumexp_error) if judgement.logsumexp_error else None,
    }
