"""What another project's acceptance rule is: a recipe for inputs, and when it accepts an output."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.visible import tail
from harness.faults.mutants import MODEL
from harness.inputs import Inputs, make_inputs
from harness.oracle.golden import golden

SEEDS = (0, 1, 2)


def _lengths(case: DecodeCase, generator: torch.Generator) -> tuple[int, ...]:
    """A random number of filled slots per sequence, as an input_pos."""
    filled = torch.randint(case.q_len, case.cache_len + 1, (case.batch,), generator=generator)
    return tuple(int(n) - case.q_len for n in filled)


@dataclass(frozen=True)
class Recipe:
    """Random inputs of one geometry.

    ``case`` is a case id; the harness's ``block`` stands for the rule's page. ``uniform`` draws
    from [-1, 1) instead of the standard normal. ``ragged`` draws each sequence's position.
    ``window`` draws a window of 1 to cache_len. ``empty_tail`` puts zeros into unused slots, which
    else hold values like all others. ``slopes`` draws ALiBi slopes from [0, slopes).
    """

    case: str
    uniform: bool = False
    ragged: bool = False
    window: bool = False
    empty_tail: bool = False
    slopes: float | None = None

    def inputs(self, seed: int, dtype: str) -> Inputs:
        """The tensors of one run."""
        generator = torch.Generator().manual_seed(seed)
        case = DecodeCase.from_text(self.case).replace(seed=seed, dtype=dtype)
        if self.ragged:
            case = case.replace(input_pos=_lengths(case, generator))
        if self.window:
            width = int(torch.randint(1, case.cache_len + 1, (), generator=generator))
            case = case.replace(mask=f"window:{width}")
        inputs = make_inputs(case)
        drawn: dict[str, Any] = {
            name: self._values(getattr(inputs, name), generator)
            for name in ("query", "key_buffer", "value_buffer")
        }
        if self.empty_tail:
            unused = tail(case)[:, None, :, None]
            for name in ("key_buffer", "value_buffer"):
                drawn[name].masked_fill_(unused, 0.0)
        if self.slopes is not None:
            slopes = torch.rand(case.heads, generator=generator) * self.slopes
            drawn["parameters"] = {"alibi_slopes": slopes}
        return dataclasses.replace(inputs, **drawn)

    def _values(self, like: Tensor, generator: torch.Generator) -> Tensor:
        if self.uniform:
            return torch.rand(like.shape, generator=generator).mul(2).sub(1).to(like.dtype)
        return torch.randn(like.shape, generator=generator).to(like.dtype)


class Trial:
    """One recipe with one seed, and what rules compare an output with."""

    def __init__(self, inputs: Inputs, reference: Callable[[Inputs], Tensor]) -> None:
        self.inputs = inputs
        self._reference = reference

    @cached_property
    def golden(self) -> Tensor:
        """Float64 ``[B, H, Q, Dv]``."""
        return golden(self.inputs).output

    @cached_property
    def reference(self) -> Tensor:
        """What the project takes for a same-dtype implementation, ``[B, H, Q, Dv]``."""
        return self._reference(self.inputs)

    @cached_property
    def sound(self) -> Tensor:
        """The output of the model without a fault."""
        return MODEL(self.inputs).output


def model(inputs: Inputs) -> Tensor:
    """The harness's own model: where a project compares two of its kernels."""
    return MODEL(inputs).output


@dataclass(frozen=True)
class Rule:
    """``accepts(output, trial)`` is the rule, as ``source`` (repository, file, test) has it."""

    name: str
    source: str
    dtype: str
    recipes: tuple[Recipe, ...]
    accepts: Callable[[Tensor, Trial], bool]
    reference: Callable[[Inputs], Tensor] = model

    def trials(self, seeds: tuple[int, ...] = SEEDS) -> Iterator[Trial]:
        """Every recipe with every seed."""
        for recipe in self.recipes:
            for seed in seeds:
                yield Trial(recipe.inputs(seed, self.dtype), self.reference)


def close(output: Tensor, expected: Tensor, **tolerances: Any) -> bool:
    """``torch.testing.assert_close`` as an answer."""
    try:
        torch.testing.assert_close(output, expected, **tolerances)
    except AssertionError:
        return False
    return True
