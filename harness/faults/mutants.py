"""Mutants: paths with a fault planted, in all rows of the output or in few."""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch
from torch import Tensor

from harness.faults import Fault, FaultKind
from harness.faults.model import Attention
from harness.inputs import Inputs
from harness.paths import Path
from harness.paths.calls import Call


class Scope(enum.StrEnum):
    """The rows in which a fault is planted: all, those of the last sequence, those of one head of
    it, or those of query tokens whose slot is the first or last of a KV block. The head is the last
    but one, since a wrong map from query heads to KV heads is often right for the last."""

    ALL = "all"
    SEQUENCE = "sequence"
    HEAD = "head"
    EDGE = "edge"


def rows(scope: Scope, a: Attention) -> Tensor:
    """Bool, broadcast to ``[B, H, Q, 1]``: the rows in which the fault is planted."""
    case = a.case
    last_sequence = (torch.arange(case.batch) == case.batch - 1).view(-1, 1, 1, 1)
    one_head = (torch.arange(case.heads) == max(case.heads - 2, 0)).view(-1, 1, 1)
    place = a.position.remainder(case.block_size[1])
    return {
        Scope.ALL: torch.ones(1, 1, 1, 1, dtype=torch.bool),
        Scope.SEQUENCE: last_sequence,
        Scope.HEAD: last_sequence & one_head,
        Scope.EDGE: (place == 0) | (place == case.block_size[1] - 1),
    }[scope]


def _model(
    name: str, doc: str, change: Callable[[Attention], Attention | None], scope: Scope
) -> Path:
    def function(inputs: Inputs) -> tuple[Tensor, Tensor]:
        sound = Attention.of(inputs, torch.float32)
        output, logsumexp = sound.run()
        broken = change(sound)
        if broken is not None:
            where = rows(scope, sound)
            wrong, wrong_logsumexp = broken.run()
            output = torch.where(where, wrong, output)
            logsumexp = torch.where(where[..., 0], wrong_logsumexp, logsumexp)
        return output.to(inputs.query.dtype), logsumexp

    return Path(
        name,
        doc,
        lambda inputs: Call(function, {"inputs": inputs}),
        ignores="any",
        flex=False,
        quantised=True,
    )


MODEL = _model(
    "model", "the dense model of a decode call, no fault planted", lambda a: None, Scope.ALL
)


def mutant(fault: Fault, scope: Scope = Scope.ALL) -> Path:
    """The dense model with the fault planted in the rows of ``scope``, or the fault's own path."""
    if fault.path is not None:
        return fault.path()
    name = fault.name if scope is Scope.ALL else f"{fault.name}@{scope}"
    return _model(name, fault.summary, fault.change, scope)


def scopes(fault: Fault) -> tuple[Scope, ...]:
    """The scopes in which the fault can be planted; one with a path of its own has no choice."""
    return (
        (Scope.ALL,) if fault.path is not None or fault.kind is FaultKind.CONTRACT else tuple(Scope)
    )
