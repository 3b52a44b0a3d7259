"""The answer of ``repro``, as text for a terminal and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from harness.interpreter.gpu import chosen
from harness.issue233.answer import REPORT_URL, Answer
from harness.oracle.golden import without_second_opinion
from harness.paths import PATHS
from harness.support.environment import environment, one_line
from harness.support.strict_json import to_text
from harness.support.text import table
from harness.verdict import Judgement

WIDTH = 100


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


def _verdict_table(answer: Answer) -> Iterator[str]:
    header = ["path", "rel. error", "worst at b,h,i,d", "got", "should be", "budgets", "verdict"]
    yield from table(header, [_row(j) for j in answer.judgements])
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
        if diagnosis := answer.diagnoses.get(judgement.path):
            for line in diagnosis.lines:
                yield from _wrapped(line, "    ")
        known = answer.known_failures.get(judgement.path)
        if known and not judgement.verdict.passes:
            yield f"  {judgement.path}: a known failure of torch: {known}, see FINDINGS.md"


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
    lines = [f"case {answer.case}", one_line(environment(answer.device)), ""]
    if answer.figures:
        lines = [f"{REPORT_URL}: full cache against sliced cache", *lines]
        lines.append("1. The report's figures")
        rows = [
            [
                f.name,
                f"{f.reported:.4f}",
                f"{f.ours:.4f}",
                f"{f.low:.4f} to {f.high:.4f}",
                "yes" if f.reproduces else "no",
            ]
            for f in answer.figures
        ]
        lines += table(["", "report", "here", "over seeds", "reproduces"], rows)
        lines += ["", "2. Every side against float64 attention over the filled slots"]
    lines += _verdict_table(answer)
    if answer.finding:
        lines += ["", "3. The finding"]
        for sentence in answer.finding:
            lines += _wrapped(sentence, "  ")
        lines += ["", "4. The report's claims"]
        for claim in answer.claims:
            lines.append(f'  "{claim.text}": {claim.verdict}')
            lines += _wrapped(claim.evidence, "      ")
    lines += ["", outcome(answer)]
    return "\n".join(lines) + "\n"


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
