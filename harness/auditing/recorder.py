"""Recorder: what gets the attention calls of a model, and which one is active."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.auditing.call import AttentionCall

Function = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Recorder:
    """Gets each call, of whichever thread, one at a time; ``forward()`` starts a forward, from
    which layers are counted.

    With ``exactly`` a call returns what float64 says instead of what it computed, in the dtype of
    its own output. ``asleep``, it lets calls pass. ``in_graph``, it gets those within
    ``torch.compile`` too. ``passed_over(function, reason)`` is told of calls that cannot be
    recorded; without it such a call raises, or is not seen within compiled code. ``met`` counts
    the calls of both kinds."""

    receive: Callable[[AttentionCall], None]
    exactly: bool = False
    in_graph: bool = False
    asleep: bool = False
    layer: int = 0
    passed_over: Callable[[str, str], None] | None = None
    met: int = field(default=0, init=False)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)
    _thread: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def forward(self) -> None:
        """Count layers from 0 again."""
        self.layer = 0

    @property
    def watches(self) -> bool:
        """Whether a call that begins now in this thread is to be recorded."""
        return not (getattr(self._thread, "inside", False) or self.asleep)

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Calls in the block, which are parts of another one, are not recorded."""
        before, self._thread.inside = getattr(self._thread, "inside", False), True
        try:
            yield
        finally:
            self._thread.inside = before

    def record(self, function: Function, **tensors: Any) -> Tensor:
        """Call ``function(value)`` and record it; ``tensors`` are those of ``AttentionCall``."""
        with self.within():
            output = function(tensors["value"])
        again = self._apart(function, tensors["value"].device)
        call = self.take(again=again, output=output, **tensors)
        return call.exact().to(output) if self.exactly else output

    def take(self, **facts: Any) -> AttentionCall:
        """Record a call that was made, of which ``facts`` are those of ``AttentionCall``."""
        copied: dict[str, Any] = {
            name: fact.detach().to("cpu", copy=True) if isinstance(fact, Tensor) else fact
            for name, fact in facts.items()
        }
        with self._lock:
            call = AttentionCall(layer=self.layer, **copied)
            self.layer, self.met = self.layer + 1, self.met + 1
            with self.within():
                self.receive(call)
        return call

    def pass_over(self, function: str, reason: str) -> None:
        """Count a call of ``function`` that is not recorded, with the reason."""
        if self.passed_over is not None:
            with self._lock:
                self.met += 1
                self.passed_over(function, reason)

    def _apart(self, function: Function, device: torch.device) -> Function:
        @functools.wraps(function)
        def again(value: Tensor) -> Tensor:
            with self.within():
                return function(value.to(device)).cpu()

        return again


# The innermost comes last. Not by context: threads of a model begin with an empty one.
_active: list[Recorder] = []


@contextlib.contextmanager
def activated(recorder: Recorder) -> Iterator[None]:
    """``recorder`` is the active one in the block, in every thread."""
    _active.append(recorder)
    try:
        yield
    finally:
        _active.remove(recorder)


def active() -> Recorder | None:
    """The recorder that is active now, or None."""
    return _active[-1] if _active else None


def watching() -> Recorder | None:
    """The recorder that is to record a call which begins now, or None."""
    recorder = active()
    return recorder if recorder is not None and recorder.watches else None
