"""The results of audits, as text for a terminal and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from harness.auditing.remedies import remedy
from harness.auditing.run import Audit
from harness.support.strict_json import JsonError, parse, to_text
from harness.support.text import table
from harness.verdict import Verdict

WIDTH = 100
WORST = (Verdict.WRONG, Verdict.NONFINITE, Verdict.ERROR, Verdict.OK, Verdict.UNSUPPORTED)


def worst(audits: Sequence[Audit]) -> Verdict:
    """The verdict over all: the first of ``WORST`` that there is; UNSUPPORTED where all are."""
    found = {audit.verdict for audit in audits}
    return next((verdict for verdict in WORST if verdict in found), Verdict.UNSUPPORTED)


def render(audits: Sequence[Audit], versions: str) -> str:
    """A line of configurations and scenarios with counts, a table, and what is wrong, once for
    each configuration and cause."""
    seconds = sum(audit.seconds for audit in audits)
    calls = sum(audit.calls for audit in audits)
    compiled = sum(audit.compiled for audit in audits)
    within = f", {compiled} of them in compiled code," if compiled else ""
    configurations, scenarios = (
        {x.configuration for x in audits},
        {x.scenario.name for x in audits},
    )
    lines = [
        f"{worst(audits)} {len(configurations)} configurations in {len(scenarios)} scenarios:"
        f" {calls} attention calls judged{within} in {seconds:.0f} s",
        f"           {versions}",
        "",
        *_table(audits),
    ]
    for audit in first_of_each(audits):
        lines += ["", *_wrong(audit)]
    refusals = {(a.configuration, a.refusal) for a in audits if a.verdict is Verdict.UNSUPPORTED}
    by_reason: dict[str, list[str]] = {}
    for configuration, reason in sorted(refusals):
        by_reason.setdefault(reason, []).append(configuration)
    for reason, names in by_reason.items():
        lines += ["", f"{Verdict.UNSUPPORTED} {', '.join(names)}", *_indented(reason)]
    return "\n".join(lines) + "\n"


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 11, subsequent_indent=" " * 11)


def _table(audits: Sequence[Audit]) -> Iterator[str]:
    scenarios = list(dict.fromkeys(a.scenario.name for a in audits))
    by_name: dict[str, dict[str, Audit]] = {}
    for audit in audits:
        by_name.setdefault(audit.configuration, {})[audit.scenario.name] = audit
    rows = [
        [name, *(_cell(done[s]) if s in done else "" for s in scenarios)]
        for name, done in by_name.items()
    ]
    yield from table(["", *scenarios], rows)


def _cell(audit: Audit) -> str:
    if audit.blame is None:
        return audit.verdict.value.replace("UNSUPPORTED", "-")
    return audit.blame.cause.value.removesuffix(" wrong").upper()


def first_of_each(audits: Sequence[Audit]) -> list[Audit]:
    """Of what is not right, the first of each configuration and cause."""
    first: dict[tuple[str, str], Audit] = {}
    for audit in audits:
        if not audit.verdict.passes:
            what = audit.refusal if audit.blame is None else audit.blame.name or audit.blame.cause
            first.setdefault((audit.configuration, what), audit)
    return list(first.values())


def _wrong(audit: Audit) -> Iterator[str]:
    yield f"{audit.verdict} {audit.configuration}, {audit.scenario.name}"
    if audit.blame is None:
        yield from _indented(audit.refusal)
        return
    blame = audit.blame
    yield (
        f"           {blame.what}, first in forward {audit.at}, layer {blame.layer},"
        f" sequence {blame.sequence}, token {blame.token}"
    )
    yield from (f"           {clause}" for clause in blame.evidence)
    yield from _indented(f"remedy: {remedy(blame)}")
    yield (
        f"           {audit.greedy} of {audit.tokens} greedy tokens differ; a logit is off by"
        f" {audit.error:.2g} of the largest"
    )


def to_json(audits: Sequence[Audit], versions: dict[str, Any]) -> str:
    """The results as JSON."""
    document = {"versions": versions, "audits": [_entry(audit) for audit in audits]}
    return to_text(document)


def _entry(audit: Audit) -> dict[str, Any]:
    blame = audit.blame
    return {
        "configuration": audit.configuration,
        "scenario": audit.scenario.name,
        "verdict": audit.verdict,
        "calls": audit.calls,
        "calls_in_compiled_code": audit.compiled,
        "forwards": audit.forwards,
        "forward": None if blame is None else audit.at,
        "blame": None if blame is None else vars(blame) | {"remedy": remedy(blame)},
        "greedy_tokens_changed": audit.greedy,
        "tokens": audit.tokens,
        "logit_error": audit.error,
        "refusal": audit.refusal,
        "seconds": round(audit.seconds, 3),
    }


def changes(recorded: str, audits: Sequence[Audit]) -> Iterator[str]:
    """Lines that say which audits came out otherwise than in ``recorded``, JSON that ``to_json``
    wrote; audits that are only in one of them are left out.

    Raises:
        ValueError: for text of another form.
    """
    try:
        before = {
            (entry["configuration"], entry["scenario"]): _came_out(entry)
            for entry in parse(recorded)["audits"]
        }
    except (KeyError, TypeError, JsonError) as error:
        raise ValueError(f"no audits: {type(error).__name__}: {error}") from None
    both = [(before.get((a.configuration, a.scenario.name)), a) for a in audits]
    known = [(was, a) for was, a in both if was is not None]
    changed = [(was, a) for was, a in known if was != _came_out(_entry(a))]
    yield f"{len(changed)} of {len(known)} audits came out otherwise than recorded"
    for was, audit in changed:
        now = _came_out(_entry(audit))
        yield f"           {audit.configuration}, {audit.scenario.name}: {was}, now {now}"


def _came_out(entry: dict[str, Any]) -> str:
    blame = entry["blame"]
    if blame is None:
        return str(entry["verdict"])
    where = f"forward {entry['forward']}, layer {blame['layer']}"
    return f"{entry['verdict']}, {blame['name'] or blame['cause']}, {where}"
