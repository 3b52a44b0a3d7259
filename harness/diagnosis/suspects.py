"""Which fault explains a wrong output: the output is compared with the prediction of every fault.

A fault is a suspect as long as every wrong row, of every case tried, lies within rounding of its
prediction. Further cases are run to tell suspects apart; suspects that differ on none of them are
named together.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.observation import (
    Observation,
    equal,
    observe,
    observe_case,
    variations,
    within,
)
from harness.diagnosis.pattern import pattern
from harness.diagnosis.prediction import Prediction, predict
from harness.diagnosis.smaller import fits_dense_model, smaller
from harness.faults import FAULTS, Fault, FaultKind
from harness.faults.model import Attention
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, judge, judgeable, leaks, malformed
from harness.verdict.junk import JUNK, junk_memory

MIN_FURTHER = 12  # cases after the variations, before a single suspect is named
MAX_CASES = 80
MANY_HEADS = 8
BIG, BIG_VARIATIONS = 2**21, 3  # with caches of more elements, only so many variations are run
MAX_TOGETHER = 6  # faults that may be named together


@dataclass(frozen=True)
class Diagnosis:
    """What explains a wrong output.

    ``names`` are those of the faults that explain it, the best first; they are empty where no fault
    does. ``evidence`` says how well they fit, or else where the output is wrong; ``remedy`` and
    ``source``, the public report, are the first fault's."""

    names: tuple[str, ...]
    evidence: tuple[str, ...]
    remedy: str = ""
    source: str = ""

    @property
    def lines(self) -> list[str]:
        """The diagnosis as lines of text."""
        ends = ("remedy", self.remedy), ("reported before", self.source)
        return [*self.evidence, *(f"{what}: {text}" for what, text in ends if text)]


@dataclass
class Suspect:
    """A fault that explains all wrong rows so far.

    ``explained`` counts these rows. ``predicted`` counts the rows that the fault would make wrong,
    and ``missed`` those among them that came out right."""

    fault: Fault
    kind: FaultKind
    explained: int = 0
    predicted: int = 0
    missed: int = 0


def diagnose(
    path: Path, problem: Problem, device: str = "cpu", further: Iterable[DecodeCase] = ()
) -> Diagnosis:
    """Name the fault that explains a wrong output.

    Args:
        problem: the problem on which ``path`` failed.
        further: cases that the path supports, run to tell suspects apart, after variations of the
            problem's own case.
    """
    if not fits_dense_model(problem.case):
        return _of_a_smaller_case(path, problem, device, further)
    further = filter(fits_dense_model, further)
    if unwritten(path, problem, device):
        fault = FAULTS["rows-never-written"]
        evidence = f"{fault.name}: {fault.summary}: a second run returns the junk in new memory"
        return Diagnosis((fault.name,), (evidence,), fault.remedy, fault.source)
    first = observe(path, problem, device)
    if first is None:
        return Diagnosis((), ())
    seen = [first]
    big = problem.inputs.key_cache.numel() > BIG
    for case in itertools.islice(variations(problem.case), BIG_VARIATIONS if big else None):
        # A path that is not static compiles another kernel for another position, and compiling one
        # for each variation would take minutes.
        if path.static or case.mode == "eager" or case.input_pos == problem.case.input_pos:
            seen += observe_case(path, case, device)
    # Where the output is wrong, the logsumexp may be wrong because of it, but not the other way
    # round, so the output comes first.
    for kind in (FaultKind.OUTPUT, FaultKind.AUXILIARY):
        if any(o.wrong(kind).any() for o in seen):
            return _named(_culprits(path, device, kind, further, seen), seen, kind)
    return Diagnosis((), _unexplained(path, problem, device))


def _of_a_smaller_case(
    path: Path, problem: Problem, device: str, further: Iterable[DecodeCase]
) -> Diagnosis:
    """The diagnosis of the first smaller case that fails too, or else where the output is wrong."""
    large = f"{problem.case} is too large for the fault models"
    for small in judgeable(smaller(problem.case)):
        judgement = judge(path, small, device)
        if not judgement.verdict.passes and judgement.output is not None:
            found = diagnose(path, small, device, further)
            what = f"{large}: this is of a smaller case that fails, {small.case}"
            return dataclasses.replace(found, evidence=(*found.evidence, what))
    first = observe(path, problem, device)
    wrong = first is not None and first.wrong(FaultKind.OUTPUT).any()
    where = pattern([first], FaultKind.OUTPUT) if first is not None and wrong else ()
    return Diagnosis((), (f"not diagnosed: {large}, and no smaller case tried fails", *where))


def _culprits(
    path: Path, device: str, kind: FaultKind, further: Iterable[DecodeCase], seen: list[Observation]
) -> list[Suspect]:
    """The suspects that explain every observation. Faults of rounding, whose bounds are wide, are
    tried only where no other fault explains it."""
    # A fault of the output may show in the logsumexp alone, where one slot is attended.
    possible = [f for f in FAULTS.values() if f.path is None and f.kind in (FaultKind.OUTPUT, kind)]
    exact = [Suspect(f, kind) for f in possible if f.rounding is None]
    rounding = [Suspect(f, kind) for f in possible if f.rounding is not None]
    for suspects in (exact, rounding):
        left = suspects
        for observation in seen:
            left = _left(left, path, observation)
        # Further cases may be costly to draw, so they are drawn only where suspects are left.
        if not left:
            continue
        # The fault may be in one kind of mask alone, so cases of the same kind come first.
        mask = seen[0].problem.case.mask_kind
        further = sorted(further, key=lambda case: case.mask_kind is not mask)
        if best := _best(_tell_apart(left, path, device, further, seen)):
            return best
    return []


def _tell_apart(
    suspects: list[Suspect],
    path: Path,
    device: str,
    further: list[DecodeCase],
    seen: list[Observation],
) -> list[Suspect]:
    """The suspects that are left after further cases: first any cases, then only such on which the
    predictions of the suspects differ."""
    enough = len(seen) + MIN_FURTHER
    for case in further:
        few = len(suspects) <= MAX_TOGETHER
        if not suspects or (len(suspects) == 1 and len(seen) >= enough) or len(seen) >= MAX_CASES:
            break
        if len(seen) >= enough and few and not _differ(suspects, path, case):
            continue
        for observation in observe_case(path, case, device):
            seen.append(observation)
            suspects = _left(suspects, path, observation)
    return suspects


def _left(suspects: list[Suspect], path: Path, seen: Observation) -> list[Suspect]:
    """The suspects that explain one more observation."""
    left = [s for s in suspects if _explains(s, path, seen)]
    seen.release()
    return left


def _differ(suspects: list[Suspect], path: Path, case: DecodeCase) -> bool:
    """Whether the predictions of the suspects differ by more than rounding."""
    problem = next(judgeable([case]), None)
    if problem is None:
        return False
    sound = Attention.of(problem.inputs, torch.float64)
    told = [predict(s.fault, sound, path.precision) for s in suspects]
    known = [t for t in told if t is not None]
    if len(known) < len(told):
        return bool(known)
    first, *others = known
    return any(
        not within(first.output, other.output, first.output_bound + other.output_bound).all()
        for other in others
    )


def _named(best: list[Suspect], seen: list[Observation], kind: FaultKind) -> Diagnosis:
    wrong = [o for o in seen if o.wrong(kind).any()]
    if not best or len(best) > MAX_TOGETHER:
        return Diagnosis((), tuple(pattern(wrong, kind)))
    fault = best[0].fault
    return Diagnosis(
        tuple(s.fault.name for s in best),
        tuple(_evidence(best, wrong, kind, len(seen))),
        fault.remedy,
        fault.source,
    )


def _explains(suspect: Suspect, path: Path, seen: Observation) -> bool:
    """Whether the fault explains every wrong row; if so, the suspect's counts are updated."""
    wrong = seen.wrong(suspect.kind)
    told = predict(suspect.fault, seen.sound, path.precision, heads := _some_heads(wrong))
    if told is None:
        return not wrong.any()
    if heads is not None:
        if not _compare(suspect, told, seen, heads)[0]:
            return False
        told = predict(suspect.fault, seen.sound, path.precision)
        assert told is not None
    fits, wrong, visible = _compare(suspect, told, seen)
    if fits:
        suspect.explained += int(wrong.sum())
        suspect.predicted += int(visible.sum())
        suspect.missed += int((visible & ~wrong).sum())
    return fits


def _some_heads(wrong: Tensor) -> list[int] | None:
    """A few heads with wrong rows, which rule out most suspects at a fraction of the cost; None
    where there are few heads anyway."""
    heads = wrong.any(2).any(0).nonzero().flatten().tolist()
    return heads[:: max(len(heads) // 3, 1)] if wrong.size(1) > MANY_HEADS and heads else None


def _compare(
    suspect: Suspect, told: Prediction, seen: Observation, heads: list[int] | None = None
) -> tuple[bool, Tensor, Tensor]:
    """Whether a prediction fits all wrong rows, the wrong rows, and the rows that the prediction
    would make wrong; both without rows in which the prediction is too large to compare."""
    index = slice(None) if heads is None else heads
    wrong, golden = seen.wrong(suspect.kind)[:, index], seen.problem.golden
    if suspect.kind is FaultKind.AUXILIARY:
        assert seen.result.logsumexp is not None
        fits = equal(seen.result.logsumexp[:, index], told.logsumexp, told.logsumexp_bound)
        total = told.logsumexp_bound + seen.bound.logsumexp[:, index]
        visible = ~equal(told.logsumexp, golden.logsumexp[:, index], total)
        telling = told.logsumexp_bound.isfinite()
    else:
        fits = within(seen.result.output[:, index], told.output, told.output_bound)
        total = told.output_bound + seen.bound.output[:, index]
        visible = ~within(told.output, golden.output[:, index], total)
        room = torch.finfo(getattr(torch, seen.problem.case.dtype)).max
        inside = told.output.abs() + told.output_bound < room
        telling = (inside | told.output.isnan()).all(-1)
    # A row in which the bound or the dtype overflows neither confirms nor refutes a fault.
    wrong, visible = wrong & telling, visible & telling
    return bool(fits[wrong].all()), wrong, visible


def _best(suspects: list[Suspect]) -> list[Suspect]:
    """The suspects none of whose predicted rows came out right.

    Where there are none, the fault is there in some rows only, which several suspects may explain:
    all of them, the one that missed least first."""
    suspects = sorted((s for s in suspects if s.explained), key=lambda s: s.fault.number)
    exact = [s for s in suspects if not s.missed]
    return exact or sorted(suspects, key=lambda s: s.missed / max(s.predicted, 1))


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
    if first.missed:
        yield f"only in part: {'; '.join(pattern(wrong, kind))}"


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
