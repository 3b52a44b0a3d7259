"""What a hunt found and covered, as text and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from harness.case import DecodeCase
from harness.hunting.failure import NUMBERS, Found, Seen
from harness.hunting.hunt import Hunt
from harness.hunting.traps import Trap
from harness.support.environment import environment, one_line
from harness.support.strict_json import to_text

_SHOWN = 160
_CASES = 3  # that a line names


def failures(hunt: Hunt) -> list[Found]:
    """What was found and is no refusal, the first one first."""
    return _apart(one for one in hunt.found if not one.loud)


def refusals(hunt: Hunt) -> list[Found]:
    """What torch refuses in words."""
    return _apart(one for one in hunt.found if one.loud)


def _apart(found: Iterable[Found]) -> list[Found]:
    """In the order in which they were found, once where two came out the same."""
    once: dict[tuple[str, DecodeCase], Found] = {}
    for one in sorted(found, key=lambda one: one.after):
        same = once.get((one.sign, one.case))
        together = one.geometries + (same.geometries if same else 0)
        once[one.sign, one.case] = dataclasses.replace(same or one, geometries=together)
    return list(once.values())


def to_markdown(hunt: Hunt, traps: list[Trap], command: str, interrupted: bool) -> str:
    """Tables of what was found, refused, let pass and covered, and the command."""
    return "\n".join(_lines(hunt, traps, command, interrupted)) + "\n"


def unsettled(hunt: Hunt) -> list[Seen]:
    """The failures that were seen and not settled, but for refusals."""
    return [one for one in hunt.unsettled if not one.loud]


def headline(hunt: Hunt, interrupted: bool) -> str:
    """How many failures were found, and what keeps that from being all."""
    seen, lost = len(unsettled(hunt)), len(hunt.lost)
    word = "INTERRUPTED, " if interrupted else "INCOMPLETE, " if seen or lost else ""
    rest = f", {seen} seen and not settled" if seen else ""
    rest += f", {lost} pieces of work lost" if lost else ""
    return f"{word}{len(failures(hunt))} failures found{rest}"


def _lines(hunt: Hunt, traps: list[Trap], command: str, interrupted: bool) -> Iterator[str]:
    found = failures(hunt)
    yield f"## Hunt: {headline(hunt, interrupted)} in {hunt.elapsed:.0f} s"
    yield ""
    if (interrupted or hunt.lost) and not (found or unsettled(hunt)):
        yield "No failure was seen."
        yield ""
    yield from _covered(hunt)
    if found:
        yield "| failure | verdict | smallest case | beside it | geometries | after | known as |"
        yield "|---|---|---|---|---:|---:|---|"
        for number, one in enumerate(found, 1):
            yield _row(number, one)
        yield ""
        for number, one in enumerate(found, 1):
            yield from _told(number, one)
    if refused := refusals(hunt):
        yield "Refused by torch, in its words:"
        yield ""
        for one in refused:
            yield f"- `{one.case}`: {_short(one)}{_beside(one)}"
        yield ""
    if traps:
        yield "Errors of the caller:"
        yield ""
        yield from (f"- {trap}" for trap in traps)
        yield ""
    yield from _not_settled(hunt.unsettled)
    yield from (f"- lost with its worker: {text}" for text in hunt.lost)
    yield f"- again: `{command}`"
    yield f"- {one_line(environment(_device(hunt)))}"


def _covered(hunt: Hunt) -> Iterator[str]:
    yield "| kernels | geometries | all right | cases | OK | pairs | tried | judged right | CPU s |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in hunt.kernels:
        counts = hunt.counts[name]
        pairs, tried, right = hunt.pairs(name)
        cells = [counts.geometries, counts.right, counts.cases, counts.ok, pairs, tried, right]
        seconds = f"{counts.seconds:.0f}"
        yield f"| {name} | {' | '.join(map(str, cells))} | {seconds} |"
    if "cpp" in hunt.kernels:
        counts = hunt.counts["cpp"]
        yield ""
        yield f"Of cpp, {counts.split} geometries took the split kernel, others the general one."
    yield ""


def _not_settled(seen: list[Seen]) -> Iterator[str]:
    """A line for each kind, with the first cases; the JSON has all."""
    kinds: dict[tuple[bool, str, str], list[Seen]] = {}
    for one in seen:
        kinds.setdefault((one.loud, one.told, one.why), []).append(one)
    for (loud, told, why), some in sorted(kinds.items()):
        word = "refused, not shrunk" if loud else "seen and not settled"
        what = f"wrong {told}" if told.startswith(NUMBERS) else told
        cases = ", ".join(f"`{one.case}`{_threads(one.threads)}" for one in some[:_CASES])
        more = f", {len(some) - _CASES} more" if len(some) > _CASES else ""
        yield f"- {word}, {why}: {what}: {cases}{more}"


def _threads(count: int) -> str:
    return f" ({count} threads)" if count > 1 else ""


def _row(number: int, one: Found) -> str:
    beside = ", ".join(f"{name} {verdict}" for name, verdict in one.beside.items())
    cells = [str(number), str(one.outcome.verdict), f"`{one.case}`{_threads(one.threads)}", beside]
    cells += [str(one.geometries), f"{one.after:.0f} s", one.known or "-"]
    return f"| {' | '.join(cells)} |"


def _told(number: int, one: Found) -> Iterator[str]:
    yield f"{number}. {_short(one)}"
    yield from (f"   {sentence}" for sentence in one.outcome.sentences[:2])
    kernels = "" if one.case.kernels != "triton" else "--kernels triton "
    kernels += "--device cuda " if one.device != "cpu" else ""
    yield f"   repro: `python -m harness repro {kernels}'{one.case}'`"
    if one.script:
        shows = {True: "shows it", False: "does not show it", None: "was not run"}
        yield f"   script: {script_name(number, one)}, which {shows[one.shows]}"
    else:
        yield "   sizes were not shrunk, and no script was written, in that time"
    yield ""


def script_name(number: int, one: Found) -> str:
    """The name of the file with a failure's script."""
    kernels = one.case.kernels if one.device == "cpu" else one.device
    return f"{number:02}-{kernels}-{str(one.outcome.verdict).lower()}.py"


def _short(one: Found) -> str:
    evidence = one.outcome.findings[0].evidence
    return evidence if len(evidence) <= _SHOWN else f"{evidence[: _SHOWN - 3]}..."


def _beside(one: Found) -> str:
    right = [name for name, verdict in one.beside.items() if verdict == "OK"]
    return f" (OK: {', '.join(right)})" if right else ""


def _device(hunt: Hunt) -> str:
    return "cuda" if "cuda" in hunt.kernels else "cpu"


def to_json(hunt: Hunt, traps: list[Trap], command: str, interrupted: bool) -> str:
    """The same as JSON, with scripts."""
    covered: dict[str, Any] = {}
    for name in hunt.kernels:
        counts = hunt.counts[name]
        pairs, tried, right = hunt.pairs(name)
        covered[name] = {
            "geometries": counts.geometries,
            "all_right": counts.right,
            "split_kernel": counts.split,
            "cases": counts.cases,
            "ok": counts.ok,
            "pairs": pairs,
            "pairs_tried": tried,
            "pairs_judged_right": right,
            "seconds": round(counts.seconds, 1),
        }
    document = {
        "command": command,
        "interrupted": interrupted,
        "seconds": round(hunt.elapsed, 1),
        "environment": environment(_device(hunt)),
        "covered": covered,
        "found": [one.to_values() for one in failures(hunt)],
        "refused": [one.to_values() for one in refusals(hunt)],
        "traps": [vars(trap) for trap in traps],
        "not_settled": [dataclasses.asdict(one) for one in hunt.unsettled],
        "lost": hunt.lost,
    }
    return to_text(document, 1)
