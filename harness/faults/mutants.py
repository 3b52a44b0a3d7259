"""Decode paths with a fault planted, in all rows or in few."""

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
    """Where a fault is planted: everywhere, in the last sequence, in one head of it (the last but
    one: a wrong group map is often right for the last), or in query tokens whose slot is the first
    or last of a KV block."""

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
        name, doc, lambda inputs: Call(function, {"inputs": inputs}), ignores="any", flex=False
    )


MODEL = _model(
    "model", "the dense model of a decode call, no fault planted", lambda a: None, Scope.ALL
)


def mutant(fault: Fault, scope: Scope = Scope.ALL) -> Path:
    """The dense model with the fault planted in some rows; or the fault's own path."""
    if fault.path is not None:
        return fault.path()
    name = fault.name if scope is Scope.ALL else f"{fault.name}@{scope}"
    return _model(name, fault.summary, fault.change, scope)


def scopes(fault: Fault) -> tuple[Scope, ...]:
    """Where planting the fault makes sense: one with a path of its own is in its own place."""
    return (
        (Scope.ALL,) if fault.path is not None or fault.kind is FaultKind.CONTRACT else tuple(Scope)
    )
