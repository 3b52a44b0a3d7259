"""Which fault explains a wrong output: the output is compared with the prediction of every fault.

A fault is a suspect as long as one region of rows (``harness.diagnosis.region``) tells the whole
story, on every case tried: every wrong row lies in it and within rounding of the prediction, and no
row of it that the fault would make wrong came out right. Further cases are run to tell suspects
apart; suspects that differ on none of them are named together. A suspect whose predictions never
differ from the right result by more than rounding has shown nothing, and is not named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.diagnosis.observation import Comparison, Observation, Observer, equal, within
from harness.diagnosis.prediction import Prediction, predict
from harness.diagnosis.region import REGIONS
from harness.diagnosis.smaller import fits_dense_model
from harness.diagnosis.variations import structures
from harness.faults import Fault, FaultKind
from harness.faults.model import Attention
from harness.paths import Path
from harness.verdict import judgeable

MIN_FURTHER = 24  # cases after the variations, before a single suspect is named
MAX_CASES = 100
MIN_SHOWN = 3  # wrong rows in which a fault must have shown itself
MANY_HEADS = 8
MAX_TOGETHER = 6  # faults that may be named together


@dataclass
class Suspect:
    """A fault that explains all wrong rows so far, in each of the ``regions`` that are left, bool
    ``[regions]``.

    ``explained`` counts the wrong rows, and ``shown`` those among them for which the prediction
    differs from the right result by more than rounding."""

    fault: Fault
    kind: FaultKind
    regions: Tensor = field(default_factory=lambda: torch.ones(len(REGIONS), dtype=torch.bool))
    explained: int = 0
    shown: int = 0

    @property
    def region(self) -> str:
        """The first region that is left, in words, empty for all rows."""
        return REGIONS[int(self.regions.nonzero()[0])]


def culprits(
    possible: list[Fault],
    observer: Observer,
    kind: FaultKind,
    further: Iterable[DecodeCase],
    seen: list[Observation],
) -> list[Suspect]:
    """The suspects that explain every observation. Faults of rounding, whose bounds are wide, are
    tried only where no other fault explains it."""
    exact = [Suspect(f, kind) for f in possible if f.rounding is None]
    rounding = [Suspect(f, kind) for f in possible if f.rounding is not None]
    cases: list[DecodeCase] = []
    for suspects in (exact, rounding):
        left = suspects
        for observation in seen:
            left = _left(left, observer.path, observation)
        # Further cases may be costly to draw, so they are drawn only where suspects are left.
        if not left:
            continue
        cases = cases or _in_order(further, seen[0].problem.case)
        done = {observation.problem.case for observation in seen}
        others = [case for case in cases if case not in done]
        if best := _best(_tell_apart(left, observer, others, seen)):
            return best
    return []


def _in_order(further: Iterable[DecodeCase], case: DecodeCase) -> list[DecodeCase]:
    """Further cases, those like ``case`` first: the fault may be in one kind of mask alone."""
    alike = sorted(further, key=lambda other: other.mask_kind is not case.mask_kind)
    return [*filter(fits_dense_model, structures(case)), *alike]


def _tell_apart(
    suspects: list[Suspect],
    observer: Observer,
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
        if len(seen) >= enough and few and not _differ(suspects, observer.path, case):
            continue
        for observation in observer.case(case):
            seen.append(observation)
            suspects = _left(suspects, observer.path, observation)
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


def _explains(suspect: Suspect, path: Path, seen: Observation) -> bool:
    """Whether the fault explains every wrong row; if so, the suspect's counts are updated."""
    key = suspect.fault.name, suspect.kind
    if key not in seen.compared:
        seen.compared[key] = _comparison(suspect, path, seen)
    found = seen.compared[key]
    if found is None:
        return False
    suspect.regions = suspect.regions & found.regions
    suspect.explained += found.explained
    suspect.shown += found.shown
    return bool(suspect.regions.any())


def _comparison(suspect: Suspect, path: Path, seen: Observation) -> Comparison | None:
    wrong = seen.wrong(suspect.kind)
    told = predict(suspect.fault, seen.sound, path.precision, heads := _some_heads(wrong))
    if told is None:
        everywhere = torch.ones(len(REGIONS), dtype=torch.bool)
        return None if wrong.any() else Comparison(everywhere, 0, 0)
    if heads is not None:
        if not _compare(suspect, told, seen, heads)[0]:
            return None
        told = predict(suspect.fault, seen.sound, path.precision)
        assert told is not None
    fits, wrong, visible = _compare(suspect, told, seen)
    if not fits:
        return None
    outside = (wrong & ~seen.regions).flatten(1).any(1)
    right_inside = (visible & ~wrong & seen.regions).flatten(1).any(1)
    return Comparison(~outside & ~right_inside, int(wrong.sum()), int((visible & wrong).sum()))


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
    """The suspects that have shown themselves, those that may be in all rows first."""
    shown = [s for s in suspects if s.shown >= MIN_SHOWN]
    return sorted(shown, key=lambda s: (bool(s.region), s.fault.number))
