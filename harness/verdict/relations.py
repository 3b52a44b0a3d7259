"""Relations between two decode calls: what must come out if the inputs change like this.

None of them is bit-exact in torch (eager and SDPA sum in another order for another shape), so
both calls are compared with golden, and with each other within the sum of their budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case import SCORES, DecodeCase
from harness.case.tails import POISON
from harness.inputs import Inputs, free_slots, store
from harness.oracle.budget import Budget, budget
from harness.paths import Path, Result
from harness.verdict import Finding, Problem, beyond_budget, compare


def _everything(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Related:
    """Changed inputs, and what they should give: ``factor`` times the picked elements of the
    original output, and the picked elements of its logsumexp plus ``shift``."""

    inputs: Inputs
    pick: Callable[[Tensor], Tensor] = _everything
    factor: float = 1.0
    shift: float = 0.0


def change(inputs: Inputs, caches: tuple[Tensor, Tensor] | None = None, **changes: Any) -> Inputs:
    """``inputs`` with case fields and tensors replaced; the caches keep the case's layout."""
    names = {f.name for f in dataclasses.fields(DecodeCase)}
    case = inputs.case.replace(**{k: v for k, v in changes.items() if k in names})
    key, value = caches or (inputs.key_cache, inputs.value_cache)
    tensors: dict[str, Any] = {k: v for k, v in changes.items() if k not in names}
    return dataclasses.replace(
        inputs,
        case=case,
        key_buffer=store(key, case.layout),
        value_buffer=store(value, case.layout),
        input_pos=torch.tensor(case.input_pos, dtype=torch.int64),
        **tensors,
    )


def take_sequences(inputs: Inputs, order: Sequence[int]) -> Related:
    """Some sequences of the batch, in some order: permutations, or one alone."""
    index = list(order)
    caches = inputs.key_cache[index], inputs.value_cache[index]
    positions = tuple(inputs.case.input_pos[b] for b in index)
    related = change(inputs, caches, query=inputs.query[index], input_pos=positions)
    return Related(related, lambda x: x[index])


def take_heads(inputs: Inputs, order: Sequence[int]) -> Related:
    """Query heads in another order; groups stay together, so KV heads follow."""
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
    """Query tokens ``start..stop-1`` alone: a chunk of a prefill, or one decode step of it."""
    positions = tuple(p + start if p >= 0 else p for p in inputs.case.input_pos)
    related = change(
        inputs,
        query=inputs.query[:, :, start:stop].contiguous(),
        input_pos=positions,
        q_len=stop - start,
    )
    return Related(related, lambda x: x[:, :, start:stop])


def before_append(inputs: Inputs) -> Related:
    """All query tokens but the last, and its slot not yet written: its value is poison.

    Causal masks only; under a prefix mask earlier rows may attend the last slot.
    """
    rows = take_rows(inputs, 0, inputs.case.q_len - 1)
    freed = free_slots(rows.inputs.case) & ~free_slots(inputs.case)
    value = inputs.value_cache.masked_fill(freed[:, None, :, None], POISON)
    return Related(change(rows.inputs, (inputs.key_cache, value)), rows.pick)


def scale_values(inputs: Inputs, power: int) -> Related:
    """Values times 4**power: the output scales, logsumexp stays. Exact in binary."""
    factor = 4.0**power
    unused = free_slots(inputs.case)[:, None, :, None]
    # The tail keeps its values: float16 has no room above some of them.
    value = torch.where(unused, inputs.value_cache, inputs.value_cache * factor)
    related = change(inputs, (inputs.key_cache, value))
    return Related(related, factor=factor)


def scale_queries(inputs: Inputs, power: int) -> Related:
    """Queries times 4**power and the softmax scale by its inverse: nothing changes."""
    factor = 4.0**power
    scale = inputs.case.softmax_scale / factor
    return Related(change(inputs, query=inputs.query * factor, scale=scale))


def shift_scores(inputs: Inputs, shift: int) -> Related:
    """Another constant on every score of a row, and on a logit without a value: the output stays,
    logsumexp moves by it."""
    scores = inputs.case.scores
    by = shift - scores.get("shift", {"shift": 0})["shift"]
    scores["shift"] = {"shift": shift}
    text = "+".join(kind.text(scores[name]) for name, kind in SCORES.items() if name in scores)
    parameters = dict(inputs.parameters)
    for kind in inputs.case.score_kinds:
        if kind.column and kind.parameter is not None:
            parameters[kind.parameter.name] = parameters[kind.parameter.name] + by
    return Related(change(inputs, score=text, parameters=parameters), shift=by)


def violations(path: Path, problem: Problem, *relateds: Related) -> list[Finding]:
    """Run the problem's call and each related one, and compare: each with golden, and each
    related one with what the first says.

    Raises:
        InvalidCase: where a related call cannot be judged.
    """
    first, first_bound, found = _run(path, problem)
    for related in relateds:
        second, second_bound, wrong = _run(path, Problem.given(related.inputs))
        found += wrong
        pick = related.pick
        wanted = Result(pick(first.output.double()) * related.factor)
        if first.logsumexp is not None:
            wanted = Result(wanted.output, pick(first.logsumexp.double()) + related.shift)
        total = Budget(
            pick(first_bound.output) * related.factor + second_bound.output,
            pick(first_bound.logsumexp) + second_bound.logsumexp,
        )
        errors = compare(second, wanted, total).items()
        found += beyond_budget({f"the related call's {part}": error for part, error in errors})
    return found


def _run(path: Path, problem: Problem) -> tuple[Result, Budget, list[Finding]]:
    gold = problem.golden
    result, bound = path(problem.inputs), budget(problem.inputs, gold, path.precision)
    return result, bound, beyond_budget(compare(result, gold, bound))
