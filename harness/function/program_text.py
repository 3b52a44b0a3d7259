"""The result of ``check`` for a cache class, as text for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case.program import ACTIONS
from harness.function.programs import ProgramResult
from harness.function.text import counted, wrapped
from harness.serving.contract import METHODS
from harness.support.environment import one_line
from harness.support.strict_json import to_text
from harness.verdict import Verdict


def render(result: ProgramResult) -> str:
    """The result as text for a terminal, whose first word is the verdict."""
    lines, program = [_first(result)], result.program
    for finding in result.outcome.findings:
        lines += wrapped(f"{finding.verdict}: {finding.evidence}")
    if program is not None:
        lines += wrapped(program.sentence, label="program")
        lines.append(f"case       {program.case}")
        lines += wrapped(program.words, label="steps")
        lines += wrapped(*filter(None, [result.outcome.shows]), label="shows")
        lines += wrapped(*result.outcome.stderr, label="stderr")
        lines += wrapped(*result.outcome.sentences, label="diagnosis")
        lines.append(f"repro      {result.repro}")
        lines.append("script     the same with --script FILE writes one that needs torch alone")
    return "\n".join([*lines, *_figures(result)]) + "\n"


def _first(result: ProgramResult) -> str:
    if result.interrupted and result.program is None:
        seen = "no failure so far" if result.tally.programs else "nothing judged yet"
        return f"INTERRUPTED {result.spec.target}: {seen}"
    if result.interrupted:
        return f"{result.verdict} {result.spec.target} (interrupted, so not the smallest program)"
    return f"{result.verdict} {result.spec.target}"


def _figures(result: ProgramResult) -> Iterator[str]:
    tally, abilities = result.tally, result.facts.abilities
    assert abilities is not None
    counts = (
        f"{counted(tally.programs, 'program')}, {tally.rows} rows judged in {result.seconds:.1f} s"
    )
    if result.tried:
        counts += f"; the first that fails was number {result.tried}"
    if tally.invalid:
        counts += f"; {tally.invalid} on which no implementation can be judged"
    if result.drawn is not None and result.drawn != result.program:
        counts += f"; it was shrunk from {result.drawn}"
    yield from wrapped(counts, label="search")
    taken = [f"{word} {tally.steps[word]}" for word in abilities.actions]
    yield from wrapped(", ".join(taken), label="steps run")
    asked = [word for word in ACTIONS if word not in abilities.actions]
    lacking = [name for name in METHODS if name not in abilities.methods]
    if asked or lacking or not abilities.ragged:
        words = [*([] if abilities.ragged else ["query_lens of decode"]), *lacking]
        yield from wrapped(f"for lack of {', '.join(words)}", label="not asked")
    features = ", ".join(result.facts.domain.features) or "none"
    yield from wrapped(features, label="features")
    if tally.utilisation is not None:
        yield f"worst      {tally.utilisation:.3g} rounding budgets"
    for reason, count in tally.unsupported.most_common():
        yield f"           {Verdict.UNSUPPORTED} {count} times: {reason}"
    yield from wrapped(one_line(result.facts.environment), label="with")


def to_json(result: ProgramResult) -> str:
    """The result as JSON; a number that is not finite is null."""
    tally, outcome, program = result.tally, result.outcome, result.program
    worst = tally.utilisation
    document = {
        "target": result.spec.target,
        # No verdict is known of a search that was ended before it found a failure.
        "verdict": None if result.interrupted and program is None else result.verdict,
        "interrupted": result.interrupted,
        "findings": [vars(finding) for finding in outcome.findings],
        "case": None if program is None else str(program.case),
        "steps": None if program is None else program.words,
        "program": None if program is None else program.sentence,
        "failing_step": outcome.number or None,
        "shows": outcome.shows,
        "shrunk_from": None if result.drawn is None else str(result.drawn),
        "stderr": list(outcome.stderr),
        "diagnosis": list(outcome.names),
        "diagnosis_text": list(outcome.sentences),
        "repro": result.repro,
        "programs": tally.programs,
        "rows": tally.rows,
        "tried_until_failure": result.tried or None,
        "invalid": tally.invalid,
        "steps_run": dict(tally.steps),
        "features": list(result.facts.domain.features),
        "unsupported": dict(tally.unsupported),
        "seconds": round(result.seconds, 3),
        "max_utilisation": worst,
        "environment": result.facts.environment,
    }
    return to_text(document)
