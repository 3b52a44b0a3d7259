"""Whether counts of a function's precision are beyond what its declared arithmetic gives, and which
step of the arithmetic explains them.

Two kinds of comparison are made. The first is of the share of elements that are not exact, in all
rows of at least so many slots, with the share of the worst emulated form: the sum over rows of the
excess. The second looks for one undeclared step: the sum over rows of the step's gain, less what
the declared forms' own errors would gain. Either is beyond chance where the sum is more than
``t`` times the root of the sum of squares. Where rows err independently and are as likely above as
below their expectation, this has a probability of at most exp(-t^2 / 2) (Hoeffding's inequality for
signs, given the absolute values; Efron, "Student's t-test under symmetry conditions", 1969).
The rows are the units, since elements of one row share weights. ``t`` is chosen so that all
comparisons of a run together give a false alarm with a probability of ``ERROR_PROBABILITY``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.verdict.judgement import Finding, Verdict
from harness.verdict.precision import Cell, Counts, Gains

ERROR_PROBABILITY = 1e-9
# A step is named where its size fits within a third, and where it explains more than every other
# step by so many standard deviations; steps that are nearer to it are named beside it.
_FITS, _APART = (3 / 4, 4 / 3), 4.0
# p @ v summed in the dtype is named where its share of exact elements fits in every length class
# of at least so many rows, and moves with the length by more than it may be off.
_CLASS_ROWS, _SHARE_OFF = 16, 0.06
# Rows that are off by a factor of their own, mean squared correlation with golden.
_ALIGNED = 0.5
_UNEXPLAINED = "not explained by any known step"


@dataclass(frozen=True)
class Precise:
    """What is known of a function's precision in one dtype.

    ``all`` pools all rows; ``worst`` those of ``2 ** least`` slots or more, which are furthest
    beyond emulation. ``strength`` is the largest of the comparisons in units of its limit: above 1
    the function is imprecise; None where there are fewer than ``needed`` rows, which no comparison
    can decide. ``steps`` explain it, each as good as the others; ``fitted`` is the size found of
    the step, in units of the size expected.
    """

    dtype: str
    all: Cell
    worst: Cell
    least: int
    needed: int
    strength: float | None
    steps: tuple[str, ...] = ()
    fitted: float | None = None

    @property
    def imprecise(self) -> bool:
        """Whether the function loses more than its declared arithmetic does."""
        return self.strength is not None and self.strength > 1

    @property
    def bits(self) -> float:
        """By how many bits the mean distance exceeds that of the worst emulation; at least 0."""
        cell = self.worst
        return math.log2(max(1.0, cell.distance / cell.allowed)) if cell.allowed else 0.0

    def to_values(self) -> dict[str, Any]:
        """The figures in plain values that JSON can hold."""
        return {
            "judged": self.strength is not None,
            "imprecise": self.imprecise,
            "rows": self.all.rows,
            "elements": self.all.elements,
            "exact": self.all.exact / self.all.elements,
            "exact_emulated": self.all.kept / self.all.elements,
            "median_ulp": self.all.median,
            "bias_ulp": self.all.signed / self.all.elements,
            "bias_from_zero_ulp": self.all.outward / self.all.elements,
            "strength": self.strength,
            "bits": self.bits,
            "steps": list(self.steps),
        }


def precise(counts: Counts) -> list[Precise]:
    """What the counts of a run say, by dtype."""
    dtypes = sorted({dtype for dtype, *_ in counts.cells})
    comparisons = len(counts.cells) + sum(len(g.names) for g in counts.gains.values())
    limit = math.sqrt(2 * math.log(max(1, comparisons) / ERROR_PROBABILITY))
    return [_of(counts, dtype, limit) for dtype in dtypes]


def imprecise(counts: Counts) -> list[Finding]:
    """A finding for each dtype in which the function is imprecise."""
    return [Finding(Verdict.IMPRECISE, evidence(p)) for p in precise(counts) if p.imprecise]


def evidence(found: Precise) -> str:
    """The figures in a sentence, and what explains them."""
    cell = found.worst
    where = f" in rows of {2**found.least} slots or more" if found.least else ""
    why = " or ".join(found.steps) or _UNEXPLAINED
    lost = f"{found.bits:.1f} bits beyond it" if found.bits else "lost in a direction of its own"
    return f"{found.dtype}{where}: {shares(cell)}; {lost}: {why}"


def shares(cell: Cell) -> str:
    """The figures of some rows."""
    return (
        f"{cell.exact / cell.elements:.1%} of {cell.elements} elements equal golden rounded once"
        f" (at least {cell.kept / cell.elements:.1%} in the declared arithmetic, emulated), median"
        f" error {cell.median:.2g} ulp, bias {cell.outward / cell.elements:+.2g} ulp from zero"
    )


def _of(counts: Counts, dtype: str, limit: float) -> Precise:
    everything = counts.pooled(dtype)
    lengths = sorted({length for name, length, _ in counts.cells if name == dtype})
    pools = {length: counts.pooled(dtype, length) for length in lengths}
    strengths = {n: _ratio(p.excess, p.excess_squared) / limit for n, p in pools.items()}
    longest = max(strengths, key=lambda n: strengths[n])
    gains = counts.gains[dtype]
    by_step = [g / limit for g in _significance(gains)]
    needed, strength = math.ceil(limit**2), max(strengths[longest], *by_step)
    beyond = strengths[longest] > 1
    worst = pools[longest] if beyond else everything
    least = longest if beyond and longest > lengths[0] else 0
    if everything.rows < needed:
        return Precise(dtype, everything, worst, least, needed, None)
    steps, fitted = _explained(gains, by_step)
    if not steps and beyond:
        steps = _sums(counts, dtype) or _aligned(worst)
    return Precise(dtype, everything, worst, least, needed, strength, steps, fitted)


def _ratio(total: float, squares: float) -> float:
    return total / math.sqrt(squares) if squares > 0 else 0.0


def _significance(gains: Gains) -> list[float]:
    """Of each step, how far its gain is above that of every declared form, in standard
    deviations."""
    count = len(gains.names)
    own = [max(0.0, *gains.permitted[i::count]) for i in range(count)]
    triples = zip(gains.gain, own, gains.gain_squared, strict=True)
    return [_ratio(gain - form, squares) for gain, form, squares in triples]


def _explained(gains: Gains, by_step: list[float]) -> tuple[tuple[str, ...], float | None]:
    """The steps that explain the distances best, and the size found of the first; none where the
    best does not fit."""
    count = len(gains.names)
    sizes = [
        (gain + size) / (2 * size) if size else 0.0
        for gain, size in zip(gains.gain, gains.size, strict=True)
    ]

    def above(i: int, j: int) -> float:
        return _ratio(gains.over[i * count + j], gains.over_squared[i * count + j])

    shown = [i for i in range(count) if by_step[i] > 1]
    fitting = [i for i in shown if _FITS[0] <= sizes[i] <= _FITS[1]]
    if not fitting:
        return (), None
    best = max(fitting, key=lambda i: min(above(i, j) for j in fitting))
    if any(above(j, best) >= _APART for j in shown if j not in fitting):
        return (), None
    near = [i for i in fitting if i != best and above(best, i) < _APART]
    return tuple(dict.fromkeys(gains.names[i] for i in (best, *near))), sizes[best]


def _sums(counts: Counts, dtype: str) -> tuple[str, ...]:
    """Whether the shares, class by class, are those of sums in the dtype."""
    by_length: dict[int, Cell] = {}
    for (name, length, _), cell in counts.cells.items():
        if name == dtype:
            pool = by_length.setdefault(length, Cell())
            pool += cell
    forms = {form for cell in by_length.values() for form in cell.sums}
    for form in sorted(forms):
        fits = [
            abs(cell.sums[form]) <= _SHARE_OFF * cell.summed[form]
            for cell in by_length.values()
            if cell.summed.get(form, 0) >= _CLASS_ROWS
        ]
        lost = [1 - c.exact / c.elements for c in by_length.values() if c.rows >= _CLASS_ROWS]
        if len(fits) > 1 and all(fits) and max(lost) - min(lost) > 2 * _SHARE_OFF:
            return (f"p @ v is summed in {dtype}, some {form.split()[0]} slots at a time",)
    return ()


def _aligned(cell: Cell) -> tuple[str, ...]:
    if cell.aligned < _ALIGNED * cell.rows:
        return ()
    return ("each row is off by a factor of its own, so the sum of its weights loses bits",)
