"""Precision: how outputs within their budget lie about golden, counted over many rows.

The *distance* of an element is how far it is from golden rounded once to the output's dtype, in
units in the last place of golden. Over many elements the mean distance is the mean absolute
internal error, and the share of elements with distance 0 is the mean of what is left of 1 after
it: golden lies anywhere between two numbers of the dtype, so an internal error of a tenth of a unit
changes one rounded element in ten. So the distances of an output are compared with the internal
errors that ``harness.oracle.emulation`` gives on the same rows.

Only cases with random data are counted: where all scores are equal or one slot holds all weight,
roundings are no longer independent of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.precision import Precision
from harness.oracle.emulation import forms, internal_errors, summed, unordered
from harness.oracle.places import in_last_place
from harness.oracle.rounding import rounded, spacing
from harness.oracle.rows import Rows, some_rows
from harness.oracle.steps import undeclared
from harness.support.threads import one_thread
from harness.verdict.judgement import Judgement, Problem

# Elements near zero may be many units off; beyond this number they count as this far.
FARTHEST = 16.0
# A case with fewer rows costs as much and shows less.
FEWEST_ROWS = 16
# A median is told to a quarter of a power of two.
_BINS_PER_OCTAVE = 4
_FIRST_BIN, _LAST_BIN = -10 * _BINS_PER_OCTAVE, 10 * _BINS_PER_OCTAVE
# Blocks of slots in which a kernel may sum, and the most steps of them that are emulated.
_BLOCKS, _STEPS = (1, 4, 16, 32, 64, 128), 256
# From this share of elements on, which are inexact beyond emulation, it is worth while to emulate
# sums in the dtype too.
_SUSPECT = 0.02
# What a step explains is counted in units of the row's typical element, up to so many of them.
_STEP_FARTHEST = 4.0

# The dtype, the power of two at or below the number of slots attended, and the head dim.
Class = tuple[str, int, int]


@dataclass
class Cell:
    """Counts over the rows of one class.

    ``exact`` elements equal golden rounded once. ``signed`` and ``outward`` are sums of the errors
    in units in the last place, the latter positive away from zero; ``distance`` is the sum of
    distances, ``allowed`` that of the largest emulated internal errors, ``kept`` the number of
    elements that these would leave exact. Of each row, ``excess`` is the share that is not exact
    beyond what any emulation gives; its sum and the sum of its squares. ``aligned`` sums, over the
    rows, the squared correlation of a row's signed distances with golden: 1 where a whole row is
    off by one factor. Where a call's rows are beyond what emulation gives, ``sums`` has, by form of
    p @ v summed in the dtype, the share that is not exact beyond it, and ``summed`` the number of
    these rows. ``bins`` has the number of errors by size.
    """

    rows: int = 0
    elements: int = 0
    exact: int = 0
    signed: float = 0.0
    outward: float = 0.0
    distance: float = 0.0
    allowed: float = 0.0
    kept: float = 0.0
    excess: float = 0.0
    excess_squared: float = 0.0
    aligned: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    summed: dict[str, int] = field(default_factory=dict)
    bins: dict[int, int] = field(default_factory=dict)

    def __iadd__(self, other: Cell) -> Cell:
        for name, value in vars(other).items():
            if not isinstance(value, dict):
                setattr(self, name, getattr(self, name) + value)
                continue
            mine = getattr(self, name)
            for key, count in value.items():
                mine[key] = mine.get(key, 0) + count
        return self

    @property
    def median(self) -> float:
        """The median error in units in the last place, to a quarter of a power of two."""
        half, seen = self.elements / 2, 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if seen >= half:
                return 0.0 if index == _FIRST_BIN else 2.0 ** ((index + 0.5) / _BINS_PER_OCTAVE)
        return 0.0


@dataclass
class Gains:
    """What undeclared steps explain of the distances, over the rows of one dtype.

    In a row a step deviates by ``d``, and ``y`` are the signed distances, here from the declared
    form that is nearest to the output. ``size`` is the sum of
    d^2, and the step's *gain* that of y^2 - (y - d)^2, by which it explains y: on average ``size``
    where the function does the step, and ``-size`` where it does not. A row weighs
    1 / (1 + size), so that no row outweighs the others. Each list has an entry for each of
    ``names``: the sum of weighted sizes, of gains, and of their squares. ``over`` has for two steps
    ``i`` and ``j``, at ``i * len(names) + j``, the sum over rows of (gain_i - gain_j) /
    (1 + size_i + size_j), and ``over_squared`` that of the squares. ``permitted`` has, form by form
    of the declared arithmetic, what its own errors add to the gain of each step.
    """

    names: tuple[str, ...] = ()
    size: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    gain_squared: list[float] = field(default_factory=list)
    over: list[float] = field(default_factory=list)
    over_squared: list[float] = field(default_factory=list)
    permitted: list[float] = field(default_factory=list)

    def __iadd__(self, other: Gains) -> Gains:
        if not other.names:
            return self
        if not self.names:
            vars(self).update(vars(other))
            return self
        for name, theirs in vars(other).items():
            if name != "names":
                ours = getattr(self, name)
                setattr(self, name, [a + b for a, b in zip(ours, theirs, strict=True)])
        return self


@dataclass
class Counts:
    """What was seen of a function's precision, by class and by dtype; counts of several runs add
    up. ``unjudged`` counts the rows that were left out, by reason."""

    cells: dict[Class, Cell] = field(default_factory=dict)
    gains: dict[str, Gains] = field(default_factory=dict)

    def __iadd__(self, other: Counts) -> Counts:
        for key, cell in other.cells.items():
            mine = self.cells.setdefault(key, Cell())
            mine += cell
        for dtype, gains in other.gains.items():
            ours = self.gains.setdefault(dtype, Gains())
            ours += gains
        return self

    def pooled(self, dtype: str, least: int = 0) -> Cell:
        """The counts of all classes of a dtype with at least 2 ** ``least`` slots."""
        pool = Cell()
        for (name, length, _), cell in self.cells.items():
            if name == dtype and length >= least:
                pool += cell
        return pool

    def to_values(self) -> dict[str, Any]:
        """The counts in plain values that JSON can hold."""
        cells = [[list(key), vars(cell)] for key, cell in self.cells.items()]
        return {"cells": cells, "gains": {dtype: vars(g) for dtype, g in self.gains.items()}}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Counts:
        """Read what ``to_values`` gave, after a way through JSON."""
        found = cls()
        for dtype, gains in values["gains"].items():
            found.gains[dtype] = Gains(**{**gains, "names": tuple(gains["names"])})
        for (dtype, length, dim), cell in values["cells"]:
            bins = {int(index): count for index, count in cell["bins"].items()}
            found.cells[dtype, length, dim] = Cell(**{**cell, "bins": bins})
        return found


def counted(case: DecodeCase) -> bool:
    """Whether the case's data are random, so that its rows are counted."""
    random = case.logits in ("normal", "x5") and case.probe == "none" and not case.has_column
    return random and case.batch * case.heads * case.q_len >= FEWEST_ROWS


def observe(problem: Problem, judgement: Judgement, precision: Precision) -> Counts:
    """Count some rows of a judged output, where its case's rows are counted and an emulation can
    tell what the declared precision may lose."""
    odd = problem.case.quantised is not None or unordered(precision)
    if judgement.output is None or not counted(problem.case) or odd:
        return Counts()
    with one_thread():
        return count(problem, judgement.output, precision, on_gpu=judgement.device != "cpu")


def count(
    problem: Problem, output: Tensor, precision: Precision, *, on_gpu: bool = False
) -> Counts:
    """Count some rows of an output ``[B, Hq, Q, Dv]`` on the CPU."""
    counts, case = Counts(), problem.case
    gains = counts.gains.setdefault(case.dtype, Gains())
    for rows in some_rows(problem.inputs):
        wanted, found = rows.of(problem.golden.output), rows.of(output).double()
        outputs = torch.stack(list(forms(rows, precision)))
        errors = internal_errors(rows, wanted, outputs, tensor_cores=on_gpu)
        for length, cell in _cells(rows, wanted, found, errors):
            mine = counts.cells.setdefault((case.dtype, length, case.head_dim), Cell())
            mine += cell
        gains += _gains(rows, wanted, found, outputs, precision)
    return counts


def _cells(
    rows: Rows, golden: Tensor, output: Tensor, errors: Tensor
) -> Iterator[tuple[int, Cell]]:
    """The counts of the rows by length class."""
    dtype = rows.inputs.case.dtype
    places, nearest = in_last_place(output, golden, dtype), rounded(golden, dtype)
    error = places.error.clamp(-FARTHEST, FARTHEST)
    distance = places.distance.clamp(max=FARTHEST)
    inexact = (~places.exact).double()
    # A call takes one form for all its rows, so the worst form is that of all rows together.
    lost = errors.clamp(max=1).mean(-1)
    worst = lost[lost.flatten(1).mean(-1).argmax()]
    excess = inexact.mean(-1) - worst
    sums: dict[str, Tensor] = {}
    if excess.mean() > _SUSPECT:
        for block, rounds in itertools.product(_BLOCKS, (False, True)):
            if rows.score.size(-1) <= _STEPS * block:
                guess = rounded(summed(rows, dtype, block, rounds=rounds), dtype)
                off = (guess != nearest).double().mean(-1)
                sums[f"{block} {rounds}"] = inexact.mean(-1) - off
    far = errors.clamp(max=FARTHEST).mean(-1)
    allowed = far[far.flatten(1).mean(-1).argmax()]
    y = (output - nearest).masked_fill(~inexact.bool(), 0.0)
    parallel = (y * golden).sum(-1) ** 2
    aligned = parallel / ((y**2).sum(-1) * (golden**2).sum(-1)).clamp(min=1e-300)
    low = 2.0 ** (_FIRST_BIN / _BINS_PER_OCTAVE)
    bins = (error.abs().clamp(min=low).log2() * _BINS_PER_OCTAVE).floor()
    bins = bins.clamp(_FIRST_BIN, _LAST_BIN).long()
    classes = rows.lengths.double().log2().floor().long()
    for length in classes.unique().tolist():
        at = classes == length
        index, count = bins[at].unique(return_counts=True)
        yield (
            length,
            Cell(
                rows=int(at.sum()),
                elements=error[at].numel(),
                exact=int((inexact[at] == 0).sum()),
                signed=error[at].sum().item(),
                outward=places.outward.clamp(-FARTHEST, FARTHEST)[at].sum().item(),
                distance=distance[at].sum().item(),
                allowed=allowed[at].sum().item() * error.size(-1),
                kept=(1 - worst)[at].sum().item() * error.size(-1),
                excess=excess[at].sum().item(),
                excess_squared=(excess[at] ** 2).sum().item(),
                aligned=aligned[at].sum().item(),
                sums={form: beyond[at].sum().item() for form, beyond in sums.items()},
                summed=dict.fromkeys(sums, int(at.sum())),
                bins=dict(zip(index.tolist(), count.tolist(), strict=True)),
            ),
        )


def _gains(
    rows: Rows, golden: Tensor, output: Tensor, outputs: Tensor, precision: Precision
) -> Gains:
    dtype = rows.inputs.case.dtype
    typical = (golden**2).mean(-1, keepdim=True).sqrt()
    unit = spacing(torch.maximum(golden.abs(), typical), dtype)

    def scaled(deviation: Tensor) -> Tensor:
        return (deviation / unit).clamp(-_STEP_FARTHEST, _STEP_FARTHEST).flatten(-3, -2)

    # Distances are taken from the declared form that is nearest to the function's own, so that
    # what it loses by its declared roundings does not hide the rest.
    distances = scaled(output - rounded(outputs, dtype))
    form = int((distances**2).mean((1, 2)).argmin())
    y, nearest = distances[form], outputs[form]
    steps = list(undeclared(rows, golden, nearest, precision))
    d = torch.stack([scaled(deviation) for _, deviation in steps])
    size = (d**2).sum(-1)
    gain = 2 * (y * d).sum(-1) - size
    weighted = gain / (1 + size)
    over = (gain[:, None] - gain) / (1 + size[:, None] + size)
    own = torch.einsum("frd,krd,kr->fk", scaled(outputs - nearest), d, 2 / (1 + size))
    return Gains(
        names=tuple(name for name, _ in steps),
        size=(size / (1 + size)).sum(-1).tolist(),
        gain=weighted.sum(-1).tolist(),
        gain_squared=(weighted**2).sum(-1).tolist(),
        over=over.sum(-1).flatten().tolist(),
        over_squared=(over**2).sum(-1).flatten().tolist(),
        permitted=own.flatten().tolist(),
    )
