"""Diagnosis: what explains a wrong output, in words."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from harness.case import DecodeCase
from harness.diagnosis.extent import extents
from harness.diagnosis.needs import earlier_calls, needs
from harness.diagnosis.observation import BIG, Observation, Observer, observe
from harness.diagnosis.pattern import pattern, sightings
from harness.diagnosis.smaller import fits_dense_model, smaller
from harness.diagnosis.suspects import MAX_TOGETHER, Suspect, culprits
from harness.diagnosis.variations import fewer_heads, variations
from harness.diagnosis.weights import EffectiveWeights, effective_weights
from harness.faults import FAULTS, Fault, FaultKind
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, judge, judgeable, leaks, malformed
from harness.verdict.junk import JUNK, junk_memory

BIG_VARIATIONS = 3  # with caches of more elements than BIG
MOST_LINES, LINE = 12, 88  # of a diagnosis, as it is printed
UNEXPLAINED = "not explained by any known fault"
# Where the output is wrong, the logsumexp may be wrong because of it, but not the other way round,
# so the output comes first.
_KINDS = (FaultKind.OUTPUT, FaultKind.AUXILIARY)


@dataclass(frozen=True)
class Diagnosis:
    """What explains a wrong output.

    ``names`` are those of the faults that explain it, the best first; they are empty where no fault
    does. ``evidence`` says how well they fit, or else where the output is wrong; ``remedy`` and
    ``source``, the public report, are the first fault's. ``weights`` are what the worst row
    attends, where they were read off."""

    names: tuple[str, ...]
    evidence: tuple[str, ...]
    remedy: str = ""
    source: str = ""
    weights: EffectiveWeights | None = None

    @property
    def lines(self) -> list[str]:
        """The diagnosis as sentences; the last of the evidence that does not fit in ``MOST_LINES``
        is left out."""
        ends = ("remedy", self.remedy), ("reported before", self.source)
        last = [f"{what}: {text}" for what, text in ends if text]
        return [*_fitting(self.evidence, MOST_LINES - _printed(last)), *last]

    def to_values(self) -> dict[str, Any]:
        """The diagnosis in plain values, without the weights."""
        return {name: value for name, value in vars(self).items() if name != "weights"}


def diagnose(
    path: Path,
    problem: Problem,
    device: str = "cpu",
    further: Iterable[DecodeCase] = (),
    faults: Iterable[Fault] = tuple(FAULTS.values()),
    observer: Observer | None = None,
    *,
    names_alone: bool = False,
) -> Diagnosis:
    """Name the fault that explains a wrong output, or say where it is wrong.

    Args:
        problem: the problem on which ``path`` failed.
        further: cases that the path supports, run to tell suspects apart, after variations of the
            problem's own case.
        faults: the faults that are suspected.
        observer: of this path, which remembers earlier runs.
        names_alone: where there is no name, say nothing else.
    """
    if not fits_dense_model(problem.case):
        return _of_a_smaller_case(path, problem, device, further, faults, names_alone)
    further = filter(fits_dense_model, further)
    if unwritten(path, problem, device):
        fault = FAULTS["rows-never-written"]
        evidence = f"{fault.name}: {fault.summary}: a second run returns the junk in new memory"
        return Diagnosis((fault.name,), (evidence,), fault.remedy, fault.source)
    observer = observer or Observer(path, device)
    first = observer.problem(problem)
    if first is None:
        return Diagnosis((), ())
    asked = _Asked(path, problem, device, tuple(further), tuple(faults), observer, names_alone)
    for few in fewer_heads(problem.case) if asked.big else ():
        # The call with fewer heads costs as much less. Where it fails too, a fault that explains
        # it is named if it explains this call as well.
        alike = observer.case(few)
        if any(o.wrong(kind).any() for o in alike for kind in _KINDS):
            found = _searched(asked, few, alike, first)
            if found.names:
                return found
    return _searched(asked, problem.case, [first])


@dataclass(frozen=True)
class _Asked:
    """What ``diagnose`` was asked."""

    path: Path
    problem: Problem
    device: str
    further: tuple[DecodeCase, ...]
    faults: tuple[Fault, ...]
    observer: Observer
    names_alone: bool

    @property
    def big(self) -> bool:
        """Whether each call takes long."""
        return self.problem.inputs.key_cache.numel() > BIG


def _searched(
    asked: _Asked, case: DecodeCase, before: list[Observation], *after: Observation
) -> Diagnosis:
    """The diagnosis from what was seen of a case, from variations of it and, where suspects are few
    by then, from more that was seen."""
    path, observer, seen = asked.path, asked.observer, [*before]
    for other in itertools.islice(variations(case), BIG_VARIATIONS if asked.big else None):
        # A path that is not static compiles another kernel for another position, and compiling one
        # for each variation would take minutes.
        if path.static or case.mode == "eager" or other.input_pos == case.input_pos:
            seen += observer.case(other)
    seen += after
    for kind in _KINDS:
        if any(o.wrong(kind).any() for o in seen):
            # A fault of the output may show in the logsumexp alone, where one slot is attended.
            kinds = (FaultKind.OUTPUT, kind)
            possible = [f for f in asked.faults if f.path is None and f.kind in kinds]
            best = culprits(possible, observer, kind, asked.further, seen)
            brief = asked.names_alone or asked.big
            first = next(o for o in seen if o.wrong(kind).any())
            weights = None if brief else effective_weights(observer.path, first, observer.device)
            found = (
                _named(best, seen, kind)
                if _certain(best)
                else _located(observer, seen, kind, weights, brief=brief)
            )
            return dataclasses.replace(found, weights=weights)
    return Diagnosis((), _unexplained(path, asked.problem, asked.device))


def _of_a_smaller_case(
    path: Path,
    problem: Problem,
    device: str,
    further: Iterable[DecodeCase],
    faults: Iterable[Fault],
    names_alone: bool,
) -> Diagnosis:
    """The diagnosis of the first smaller case that fails too, or else where the output is wrong."""
    large = f"{problem.case} is too large for the fault models"
    for small in judgeable(smaller(problem.case)):
        judgement = judge(path, small, device)
        if not judgement.verdict.passes and judgement.output is not None:
            found = diagnose(path, small, device, further, faults, names_alone=names_alone)
            what = f"{large}: this is of a smaller case that fails, {small.case}"
            return dataclasses.replace(found, evidence=(*found.evidence, what))
    first = observe(path, problem, device)
    wrong = first is not None and first.wrong(FaultKind.OUTPUT).any()
    where = list(pattern([first], FaultKind.OUTPUT)) if first is not None and wrong else []
    return Diagnosis((), (f"not diagnosed: {large}, and no smaller case tried fails", *where))


def _certain(best: list[Suspect]) -> bool:
    return 0 < len(best) <= MAX_TOGETHER


def _located(
    observer: Observer,
    seen: list[Observation],
    kind: FaultKind,
    weights: EffectiveWeights | None,
    *,
    brief: bool,
) -> Diagnosis:
    """No name: where it is wrong, for which numbers, with which options, and what the worst row
    attends."""
    wrong = [o for o in seen if o.wrong(kind).any()]
    where, *places = pattern(wrong, kind)
    sentences = [f"{UNEXPLAINED}: {where}", *places]
    if brief or wrong[0].problem.case.mode != "eager":
        sentences += sightings(wrong, kind)
    if not brief:
        sentences += earlier_calls(observer, wrong[0], kind)
        sentences += extents(observer, wrong[0], kind)
        sentences += needs(observer, wrong[0].problem.case, kind)
        sentences += weights.sentences() if weights is not None else ()
    return Diagnosis((), tuple(sentences))


def _fitting(sentences: Iterable[str], lines: int) -> Iterator[str]:
    """The first of the sentences, as many as fit in so many lines, but one at least."""
    for number, sentence in enumerate(sentences):
        lines -= _printed([sentence])
        if lines < 0 and number:
            return
        yield sentence


def _printed(sentences: Iterable[str]) -> int:
    return sum(len(textwrap.wrap(sentence, LINE)) for sentence in sentences)


def _named(best: list[Suspect], seen: list[Observation], kind: FaultKind) -> Diagnosis:
    wrong = [o for o in seen if o.wrong(kind).any()]
    fault = best[0].fault
    return Diagnosis(
        tuple(s.fault.name for s in best),
        tuple(_evidence(best, wrong, kind, len(seen))),
        fault.remedy,
        fault.source,
    )


def _evidence(
    best: list[Suspect], wrong: list[Observation], kind: FaultKind, tried: int
) -> Iterator[str]:
    first = best[0]
    rows = f"{first.explained} of {first.explained} wrong rows, {tried} cases tried"
    if len(best) == 1:
        yield f"{first.fault.name}: {first.fault.summary} (fits {rows})"
    else:
        names = ", ".join(s.fault.name for s in best)
        yield f"{names}: equal on every case tried (fit {rows})"
        yield from (f"{s.fault.name}: {s.fault.summary}" for s in best)
    if first.region:
        where = [*pattern(wrong, kind), *sightings(wrong, kind)]
        yield f"only in part ({first.region}): {'; '.join(where)}"


def unwritten(path: Path, problem: Problem, device: str) -> bool:
    """Whether a run with junk in newly allocated memory returns that junk."""
    with handed(problem, device) as given:
        with junk_memory(device):
            result = attempt(path, given.inputs)
        if not isinstance(result, Result) or malformed(given.inputs, result):
            return False
        output = result.output.clone(memory_format=torch.contiguous_format)
    pattern = output.view(torch.uint8).unflatten(-1, (-1, output.element_size())) == JUNK
    return bool(pattern.all(-1).any())


def _unexplained(path: Path, problem: Problem, device: str) -> tuple[str, ...]:
    """The evidence where no row is further off than rounding, so that an exact relation failed."""
    with handed(problem, device) as given:
        result = attempt(path, given.inputs)
        if isinstance(result, Result):
            result = Result(result.output.clone())
    if isinstance(result, Result) and leaks(path, problem, result, device):
        return ("slots that no query may attend change the output, by less than rounding",)
    return ("the numbers are within rounding",)
