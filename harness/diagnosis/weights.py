"""Effective weights: what a path gives each slot, read off by linearity in the values.

The path is run with unit vectors as values of one sequence and zeros as those of all others, as
many slots at a time as a value has dims: each element of the output is then the weight of one slot.
With ones as the values of another sequence the output is the weight that is taken from there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.diagnosis.observation import Observation
from harness.faults import FaultKind
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, malformed

MOST_RUNS, MOST_SEQUENCES = 64, 8
SHOWN = 3  # slots of a kind
MOST_VALUES = 2**16


@dataclass(frozen=True)
class EffectiveWeights:
    """Of the query token of one ``row`` (sequence, head, query token), in each head: the weight
    that each slot ``got``, the one that was ``due``, and what rounding ``allowed`` them to differ
    by, float64 ``[Hq, S]``. ``elsewhere`` is the weight that the row takes from other sequences, by
    their numbers."""

    row: tuple[int, int, int]
    got: Tensor
    due: Tensor
    allowed: Tensor
    elsewhere: dict[int, float] = field(default_factory=dict)

    def to_values(self) -> dict[str, Any]:
        """The weights in plain values; of many slots those of the row's own head alone."""
        head = self.row[1]
        shown = slice(None) if self.got.numel() <= MOST_VALUES else slice(head, head + 1)
        lists = {"got": self.got[shown].tolist(), "due": self.due[shown].tolist()}
        return {"row": list(self.row), "first_head": shown.start or 0, **lists}

    def sentences(self) -> Iterator[str]:
        """What got too much and too little in the row, the worst first."""
        sequence, head, token = self.row
        own = _Row(*(x[head] for x in (self.got, self.due, self.allowed)))
        place = f"sequence {sequence}, head {head}, query token {token}"
        told = [f"{kind}: {own.slots(mask)}" for kind, mask in own.kinds().items() if mask.any()]
        told += [f"sequence {c} gets {weight:.3g}" for c, weight in self.elsewhere.items()]
        if not told and not own.off.any():
            yield f"weights of {place} are right: what is off is the values"
            return
        if factor := own.factor:
            told.append(f"all{' others' * bool(told)} get {factor:.3g} times theirs")
        yield f"weights of {place}, sum {own.got.sum():.3g}: {'; '.join(told)}"


@dataclass(frozen=True)
class _Row:
    """The weights of one row, float64 ``[S]``."""

    got: Tensor
    due: Tensor
    allowed: Tensor

    @functools.cached_property
    def off(self) -> Tensor:
        """The slots whose weight is not the one that was due, bool ``[S]``."""
        return ~((self.got - self.due).abs() <= self.allowed)

    @functools.cached_property
    def _common(self) -> tuple[float, float]:
        """What most slots get of their due, and how far that may be off by rounding."""
        seen = (self.due > 2 * self.allowed) & self.got.isfinite()
        if not seen.any():
            return 1.0, 0.0
        ratio, loose = (self.got / self.due)[seen], (self.allowed / self.due)[seen]
        middle = ratio.argsort()[(len(ratio) - 1) // 2]
        return float(ratio[middle]), float(loose[middle])

    def _times(self, count: int) -> Tensor:
        """The slots that get ``count`` times what most get of their due, bool ``[S]``."""
        factor, loose = self._common
        allowed = self.allowed + count * (loose * self.due + abs(factor) * self.allowed)
        return (self.due > 0) & ((self.got - count * factor * self.due).abs() <= allowed)

    @functools.cached_property
    def factor(self) -> float | None:
        """What all slots get of their due that are of no kind; None where that is their due."""
        plain = self._times(1) & ~self._odd
        return self._common[0] if (plain & self.off).any() else None

    @functools.cached_property
    def _odd(self) -> Tensor:
        return torch.stack([*self.kinds().values()]).any(0)

    def kinds(self) -> dict[str, Tensor]:
        """The slots that are off in each way, bool ``[S]``, but for what most of them have in
        common."""
        hidden = self.off & (self.due == 0)
        missed = self.off & (self.due > 0) & (self.got.abs() <= self.allowed)
        left = self.off & ~(hidden | missed | self._times(1))
        twice = left & self._times(2)
        left = left & ~twice
        return {
            "attended, not visible": hidden,
            "visible, not attended": missed,
            "attended twice": twice,
            "too much": left & ~(self.got < self.due),
            "too little": left & (self.got < self.due),
        }

    def slots(self, mask: Tensor) -> str:
        """Those of ``mask`` that are most off, with their weights."""
        slots = mask.nonzero().flatten()
        worst = (self.got - self.due)[slots].abs().nan_to_num(torch.inf).argsort(descending=True)
        named = [
            f"slot {j} ({self.got[j]:.3g} for {self.due[j]:.3g})"
            for j in slots[worst[:SHOWN]].tolist()
        ]
        more = len(slots) - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")


def effective_weights(path: Path, seen: Observation, device: str) -> EffectiveWeights | None:
    """The weights of the observation's worst row; None where its output is right, where the values
    cannot be set one by one, or where that would take too many runs."""
    wrong, case = seen.wrong(FaultKind.OUTPUT), seen.problem.case
    values = seen.problem.inputs.value_cache
    shared = any(n > 1 and not step for n, step in zip(values.shape, values.stride(), strict=True))
    if not wrong.any() or shared or case.quantised or case.cache_len > MOST_RUNS * case.value_dim:
        return None
    error = (seen.result.output - seen.problem.golden.output).abs().nan_to_num(torch.inf)
    worst = error.amax(-1).masked_fill(~wrong, -1.0)
    b, h, i = (int(n) for n in torch.unravel_index(worst.argmax(), worst.shape))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, case.cache_len, case.value_dim):
        dims = torch.arange(first, first + case.value_dim)
        units = torch.arange(case.cache_len).unsqueeze(1) == dims
        ran = _with_values(path, seen, device, b, units)
        if ran is None:
            return None
        parts.append(tuple(x[b, :, i] for x in ran))  # type: ignore[arg-type]
    got, due, allowed = (torch.cat(x, -1)[:, : case.cache_len] for x in zip(*parts, strict=True))
    elsewhere: dict[int, float] = {}
    for other in [n for n in range(case.batch) if n != b][:MOST_SEQUENCES]:
        ran = _with_values(path, seen, device, other, torch.ones(()))
        if ran is None:
            continue
        # Nothing of another sequence is due.
        taken, _, allowed_there = (x[b, h, i] for x in ran)
        if not taken.abs().amax() <= allowed_there.amax():
            elsewhere[other] = float(taken.mean())
    return EffectiveWeights((b, h, i), got, due, allowed, elsewhere)


def _with_values(
    path: Path, seen: Observation, device: str, sequence: int, values: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Output, golden and bound, float64 ``[B, Hq, Q, Dv]``, with these values in one sequence and
    zeros in all others; None where the path raises or its result is malformed."""
    inputs = seen.problem.inputs.clone()
    inputs.value_cache.zero_()
    inputs.value_cache[sequence] = values.to(inputs.value_cache.dtype)
    problem = Problem.given(inputs)
    with handed(problem, device) as given:
        result = attempt(path, given.inputs)
        if not isinstance(result, Result) or malformed(given.inputs, result):
            return None
        got = result.output.cpu().double()
    bound = problem.bound(path.precision, tensor_cores=device != "cpu").output
    return got, problem.golden.output, bound
