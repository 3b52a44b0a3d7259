"""The result of a gate as Markdown for a pull request, as JUnit XML and as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree

from harness.gate.item import Item
from harness.gate.steps import Gate
from harness.support.environment import environment, one_line
from harness.support.strict_json import to_text

SHOWN = 10


def headline(gate: Gate, interrupted: bool) -> str:
    """The result in one line: red, green, or INCOMPLETE where there was no time for a part of it;
    and the number of verdicts."""
    count, failures = sum(step.counted for step in gate.steps), len(gate.failures)
    if failures:
        word = "RED"
    elif interrupted:
        word = "INTERRUPTED"
    elif not count:
        word = "NOTHING JUDGED"
    else:
        word = "INCOMPLETE" if gate.cut else "GREEN"
    return f"{word}: {count} verdicts on {gate.device}, {failures} failed"


def to_markdown(gate: Gate, command: str, interrupted: bool) -> str:
    """A summary: what failed and why, the steps, what was not run, and how to run it again."""
    return "\n".join(_lines(gate, command, interrupted)) + "\n"


def _lines(gate: Gate, command: str, interrupted: bool) -> Iterator[str]:
    yield f"## Decoding gate: {headline(gate, interrupted)}"
    yield ""
    if interrupted:
        yield f"Stopped by hand with {gate.left:.0f} s left; this is what was done until then."
        yield ""
    if (interrupted or gate.cut) and not gate.failures:
        yield "No failure was seen."
        yield ""
    told = [item for item in gate.failures if item.why or not item.path]
    told = told[:SHOWN] or gate.failures[:SHOWN]
    for item in told:
        yield from _failure(item)
    if len(gate.failures) > len(told):
        rest = Counter(c.path for c in gate.failures if c.path)
        counts = ", ".join(f"{count} of {path}" for path, count in rest.most_common())
        yield f"{len(gate.failures)} failures in all: {counts}."
        yield ""
    for step in gate.cut:
        yield f"- {step.name}: no time for {step.cut}"
    if gate.cut:
        yield ""
    yield "| step | verdicts | failed | seconds |"
    yield "|---|---:|---:|---:|"
    for step in gate.steps:
        yield f"| {step.name} | {step.counted} | {len(step.failures)} | {step.seconds:.0f} |"
    yield ""
    notices = [c for step in gate.steps for c in step.items if c.notice]
    yield from (f"- {item.name}: {item.evidence}" for item in notices)
    skipped: dict[str, list[str]] = {}
    for step in gate.steps:
        for item in step.items:
            if item.not_run:
                skipped.setdefault(item.not_run, []).append(item.name)
    yield from (f"- not run, {reason}: {', '.join(names)}" for reason, names in skipped.items())
    if gate.excluded:
        left_out = ", ".join(f"{count} {name}" for name, count in sorted(gate.excluded.items()))
        yield f"- drawn cases left out, known upstream failures (FINDINGS.md): {left_out}"
    yield f"- again: `{command}`"
    yield f"- {one_line(environment(gate.device))}"


def _failure(item: Item) -> Iterator[str]:
    yield f"**{item.verdict}** `{item.name}`"
    yield ""
    yield f"- {item.evidence}"
    yield from (f"- {sentence}" for sentence in item.why)
    if item.repro:
        yield f"- repro: `{item.repro}`"
    yield ""


def to_junit(gate: Gate, command: str, interrupted: bool) -> str:
    """JUnit XML with a suite for each step and a test case for each item; items that were not run
    are skipped with the reason."""
    root = ElementTree.Element("testsuites", name="decoding gate")
    for step in gate.steps:
        skipped = sum(bool(item.not_run) for item in step.items) + bool(step.cut)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=step.name,
            tests=str(len(step.items) + bool(step.cut)),
            failures=str(len(step.failures)),
            skipped=str(skipped),
            time=f"{step.seconds:.3f}",
        )
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in {"command": command, **environment(gate.device)}.items():
            ElementTree.SubElement(properties, "property", name=name, value=str(value))
        for item in step.items:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=step.name,
                name=item.name,
                time=f"{item.seconds:.3f}",
            )
            if item.failed:
                failure = ElementTree.SubElement(
                    case, "failure", type=item.verdict, message=item.evidence
                )
                failure.text = "\n".join([*item.why, item.repro])
            elif item.not_run:
                ElementTree.SubElement(case, "skipped", message=f"not run: {item.not_run}")
        if step.cut:
            case = ElementTree.SubElement(suite, "testcase", classname=step.name, name="the rest")
            ElementTree.SubElement(case, "skipped", message=f"no time for {step.cut}")
    if interrupted:
        ElementTree.SubElement(root, "system-err").text = "interrupted"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_json(gate: Gate, command: str, interrupted: bool) -> str:
    """The whole result as JSON, failures first."""
    document = {
        "headline": headline(gate, interrupted),
        "passed": not (gate.failures or gate.cut or interrupted),
        "incomplete": {step.name: step.cut for step in gate.cut},
        "interrupted": interrupted,
        "command": command,
        "seed": gate.seed,
        "device": gate.device,
        "environment": environment(gate.device),
        "failures": [dataclasses.asdict(item) for item in gate.failures],
        "excluded": dict(gate.excluded),
        "steps": [
            {
                "name": step.name,
                "verdicts": step.counted,
                "seconds": round(step.seconds, 3),
                "checks": [dataclasses.asdict(item) for item in step.items],
            }
            for step in gate.steps
        ],
    }
    return to_text(document, 1)
