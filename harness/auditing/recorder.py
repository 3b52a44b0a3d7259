"""Recorder: what gets the attention calls of a model, and which one is active."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harness.auditing.call import AttentionCall

Function = Callable[[Tensor], Tensor]


@dataclass
class Recorder:
    """Gets each call; ``forward()`` starts a forward, from which layers are counted.

    With ``exactly`` a call returns what float64 says instead of what it computed, in the dtype of
    its own output. ``asleep``, it lets calls pass. ``in_graph``, it gets those within
    ``torch.compile`` too."""

    receive: Callable[[AttentionCall], None]
    exactly: bool = False
    in_graph: bool = False
    asleep: bool = False
    layer: int = 0
    inside: bool = field(default=False, init=False)

    def forward(self) -> None:
        """Count layers from 0 again."""
        self.layer = 0

    @property
    def watches(self) -> bool:
        """Whether a call that begins now is to be recorded."""
        return not (self.inside or self.asleep)

    def record(self, function: Function, **tensors: Any) -> Tensor:
        """Call ``function(value)`` and record it; ``tensors`` are those of ``AttentionCall``."""
        self.inside = True
        try:
            output = function(tensors["value"])
        finally:
            self.inside = False
        call = self.take(again=self._apart(function), output=output, **tensors)
        return call.exact().to(output.dtype) if self.exactly else output

    def take(self, **facts: Any) -> AttentionCall:
        """Record a call that was made, of which ``facts`` are those of ``AttentionCall``."""
        copied: dict[str, Any] = {
            name: fact.detach().clone() if isinstance(fact, Tensor) else fact
            for name, fact in facts.items()
        }
        call = AttentionCall(layer=self.layer, **copied)
        self.layer += 1
        self.receive(call)
        return call

    def _apart(self, function: Function) -> Function:
        @functools.wraps(function)
        def again(value: Tensor) -> Tensor:
            before, self.inside = self.inside, True
            try:
                return function(value)
            finally:
                self.inside = before

        return again


ACTIVE: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def watching() -> Recorder | None:
    """The recorder that is to record a call which begins now, or None."""
    recorder = ACTIVE.get()
    return recorder if recorder is not None and recorder.watches else None
