"""Effective weights: what a path gives each slot, read off by linearity in the values.

The path is run with unit vectors as values, as many slots at a time as a value has dims: each
element of the output is then the weight of one slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.diagnosis.observation import Observation
from harness.faults import FaultKind
from harness.paths import Path, Result
from harness.verdict import Problem, attempt, handed, malformed

MOST_RUNS = 64
SHOWN = 3  # slots of a kind
MOST_VALUES = 2**16


@dataclass(frozen=True)
class EffectiveWeights:
    """Of the query token of one ``row`` (sequence, head, query token), in each head: the weight
    that each slot ``got``, the one that was ``due``, and what rounding ``allowed`` them to differ
    by, float64 ``[Hq, S]``."""

    row: tuple[int, int, int]
    got: Tensor
    due: Tensor
    allowed: Tensor

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
        if not told:
            yield f"weights of {place} are right: what is off is the values"
        else:
            yield f"weights of {place}, sum {own.got.sum():.3g}: {'; '.join(told)}"


@dataclass(frozen=True)
class _Row:
    """The weights of one row, float64 ``[S]``."""

    got: Tensor
    due: Tensor
    allowed: Tensor

    def kinds(self) -> dict[str, Tensor]:
        """The slots that are off in each way, bool ``[S]``."""
        off = ~((self.got - self.due).abs() <= self.allowed)
        kinds = {
            "attended, not visible": off & (self.due == 0),
            "visible, not attended": off & (self.due > 0) & (self.got.abs() <= self.allowed),
        }
        left = off & ~(kinds["attended, not visible"] | kinds["visible, not attended"])
        kinds["too much"] = left & ~(self.got < self.due)
        kinds["too little"] = left & (self.got < self.due)
        return kinds

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
        inputs = seen.problem.inputs.clone()
        slots = torch.arange(case.cache_len).unsqueeze(1)
        inputs.value_cache.copy_(slots == torch.arange(first, first + case.value_dim))
        problem = Problem.given(inputs)
        with handed(problem, device) as given:
            result = attempt(path, given.inputs)
            if not isinstance(result, Result) or malformed(given.inputs, result):
                return None
            got = result.output.cpu().double()
        bound = problem.bound(path.precision, tensor_cores=device != "cpu").output
        parts.append((got[b, :, i], problem.golden.output[b, :, i], bound[b, :, i]))
    got, due, allowed = (torch.cat(x, -1)[:, : case.cache_len] for x in zip(*parts, strict=True))
    return EffectiveWeights((b, h, i), got, due, allowed)
