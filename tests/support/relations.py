"""Relations between two decode calls: how golden must change when the inputs change.

For example, permuting the heads permutes the output. Implementations are held to golden itself, and
so, by the triangle inequality, to each relation within the sum of two budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case import SCORES, DecodeCase, InvalidCase
from harness.case.precision import Precision
from harness.case.tails import POISON
from harness.inputs import Inputs, free_slots, store
from harness.oracle.budget import Budget, budget
from harness.oracle.error import measure
from harness.oracle.golden import Golden, golden

FLOAT64 = Precision(*["float64"] * 5)


def _everything(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Related:
    """Changed inputs, and what should come of them: ``factor`` times the elements that ``pick``
    takes from the original output, and those that it takes from the logsumexp, plus ``shift``."""

    inputs: Inputs
    pick: Callable[[Tensor], Tensor] = _everything
    factor: float = 1.0
    shift: float = 0.0


def change(inputs: Inputs, caches: tuple[Tensor, Tensor] | None = None, **changes: Any) -> Inputs:
    """``inputs`` with some fields of the case and some tensors replaced; the caches keep the case's
    layout."""
    names = {f.name for f in dataclasses.fields(DecodeCase)}
    case = inputs.case.replace(**{k: v for k, v in changes.items() if k in names})
    key, value = caches or (inputs.key_cache, inputs.value_cache)
    tensors: dict[str, Any] = {k: v for k, v in changes.items() if k not in names}
    return dataclasses.replace(
        inputs,
        case=case,
        key_buffer=store(key, case.layout),
        value_buffer=store(value, case.value_layout_kind.name),
        input_pos=torch.tensor(case.input_pos, dtype=torch.int64),
        **tensors,
    )


def take_sequences(inputs: Inputs, order: Sequence[int]) -> Related:
    """The sequences ``order`` of the batch: a permutation, or one sequence alone."""
    index = list(order)
    caches = inputs.key_cache[index], inputs.value_cache[index]
    positions = tuple(inputs.case.input_pos[b] for b in index)
    related = change(inputs, caches, query=inputs.query[index], input_pos=positions)
    return Related(related, lambda x: x[index])


def take_heads(inputs: Inputs, order: Sequence[int]) -> Related:
    """The query heads in another order that keeps the heads of a GQA group together, so that the
    KV heads can follow."""
    index = list(order)
    group = inputs.case.heads // inputs.case.kv_heads
    kv_index = [h // group for h in index[::group]]
    caches = inputs.key_cache[:, kv_index], inputs.value_cache[:, kv_index]
    related = change(
        inputs,
        caches,
        query=inputs.query[:, index],
        parameters={name: tensor[index] for name, tensor in inputs.parameters.items()},
    )
    return Related(related, lambda x: x[:, index])


def take_rows(inputs: Inputs, start: int, stop: int) -> Related:
    """The query tokens ``start`` to ``stop - 1`` alone: a part of a chunk, or a single step of
    it."""
    positions = tuple(p + start if p >= 0 else p for p in inputs.case.input_pos)
    related = change(
        inputs,
        query=inputs.query[:, :, start:stop].contiguous(),
        input_pos=positions,
        q_len=stop - start,
    )
    return Related(related, lambda x: x[:, :, start:stop])


def before_append(inputs: Inputs) -> Related:
    """The call before the last query token came: all tokens but the last, and poison in the value
    of its slot.

    This holds for causal masks only: under a prefix mask, earlier rows may attend the last slot.
    """
    rows = take_rows(inputs, 0, inputs.case.q_len - 1)
    freed = free_slots(rows.inputs.case) & ~free_slots(inputs.case)
    value = inputs.value_cache.masked_fill(freed[:, None, :, None], POISON)
    return Related(change(rows.inputs, (inputs.key_cache, value)), rows.pick)


def scale_values(inputs: Inputs, power: int) -> Related:
    """Values times 4**power: the output is multiplied too, the logsumexp stays.

    Raises:
        InvalidCase: where a product is not exact.
    """
    factor = 4.0**power
    unused = free_slots(inputs.case)[:, None, :, None]
    # The tail keeps its values, since some of them times the factor would overflow float16.
    value = torch.where(unused, inputs.value_cache, _times(inputs.value_cache, factor, unused))
    related = change(inputs, (inputs.key_cache, value))
    return Related(related, factor=factor)


def scale_queries(inputs: Inputs, power: int) -> Related:
    """Queries times 4**power and the softmax scale divided by it: nothing changes.

    Raises:
        InvalidCase: where a product is not exact.
    """
    factor = 4.0**power
    scale = inputs.case.softmax_scale / factor
    return Related(change(inputs, query=_times(inputs.query, factor), scale=scale))


def _times(x: Tensor, factor: float, unused: Tensor | None = None) -> Tensor:
    product = x * factor
    exact = product / factor == x
    # The smallest numbers of float16 lose bits where they are divided by 16.
    if not (exact if unused is None else exact | unused).all():
        raise InvalidCase(f"a number times {factor:g} is not exact in {x.dtype}")
    return product


def shift_scores(inputs: Inputs, shift: int) -> Related:
    """The same constant added to every score and to a logit without a value: the output stays, the
    logsumexp grows by the constant."""
    scores = inputs.case.scores
    by = shift - scores.get("shift", {"shift": 0})["shift"]
    scores["shift"] = {"shift": shift}
    text = "+".join(kind.text(scores[name]) for name, kind in SCORES.items() if name in scores)
    parameters = dict(inputs.parameters)
    for kind in inputs.case.score_kinds:
        if kind.column and kind.parameter is not None:
            # In float64, in which the sum is exact enough not to count.
            parameters[kind.parameter.name] = parameters[kind.parameter.name].double() + by
    return Related(change(inputs, score=text, parameters=parameters), shift=by)


def violations(inputs: Inputs, *relateds: Related) -> list[str]:
    """Which related calls golden disagrees on, beyond what rounding in float64 explains.

    Raises:
        InvalidCase: where no implementation can be judged on one of the calls, see ``golden``.
    """
    first, first_bound = _run(inputs)
    found = []
    for number, related in enumerate(relateds):
        second, second_bound = _run(related.inputs)
        pick = related.pick
        wanted = {
            "output": pick(first.output) * related.factor,
            "logsumexp": pick(first.logsumexp) + related.shift,
        }
        allowed = {
            "output": pick(first_bound.output) * related.factor + second_bound.output,
            "logsumexp": pick(first_bound.logsumexp) + second_bound.logsumexp,
        }
        for part, expected in wanted.items():
            error = measure(getattr(second, part), expected, allowed[part])
            if error.utilisation > 1:
                found.append(f"relation {number}: {part}: {error}")
    return found


def _run(inputs: Inputs) -> tuple[Golden, Budget]:
    gold = golden(inputs)
    return gold, budget(inputs, gold, FLOAT64)
