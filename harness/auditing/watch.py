"""Watching attention calls, of any PyTorch model or of none: each against its own mask in float64,
a model's masks against the slots that were written, and calls against earlier ones on the same keys
and values."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.auditing.call import AttentionCall
from harness.auditing.coverage import Coverage
from harness.auditing.differing import Comparing
from harness.auditing.observe import observed
from harness.auditing.placed import misplaced, own_slots
from harness.auditing.recorder import Recorder
from harness.auditing.report import Report
from harness.auditing.sighting import Sighting
from harness.case.precision import Precision
from harness.support.frames import where

# Of scores that are judged, several copies are needed in float64.
_LARGEST = 1 << 28


@contextlib.contextmanager
def audit(
    model: nn.Module | None = None, *, every: int = 1, precision: Precision | None = None
) -> Iterator[Report]:
    """Judge attention calls in the block, of ``model`` or of all that runs, whatever they are
    called by: ``flex_attention``, SDPA, or transformers' table of attention functions.

    A call is judged against float64 over the slots that its mask shows. Calls on the same keys and
    values with the same queries are compared with each other. With a model, where it can be seen in
    which slots the newest tokens lie (as many keys changed since the layer's last call as there are
    queries), a query must see its own slot, and none after it; and layers are named in which no
    call was seen. Padding and windows are the mask's own affair. Calls within code that is compiled
    in the block are seen too.

    Args:
        every: judge one forward of the model in this many; the one before each of them costs a copy
            of its calls.
        precision: what attention declares, by default float32 arithmetic on its inputs' dtype.

    Raises:
        ValueError: for ``every`` below 1, or above it without a model.
    """
    if every < 1:
        raise ValueError(f"every: {every} is not a whole number >= 1")
    if model is None and every > 1:
        raise ValueError("every: counts the forwards of a model, which is not given")
    watch = _Watch(Report(model), every, precision)
    try:
        with contextlib.ExitStack() as stack:
            if model is not None:
                stack.enter_context(watch.hooked(model))
            stack.enter_context(observed(watch.recorder, [] if model is None else model.modules()))
            yield watch.report
    finally:
        watch.report.left_out = watch.comparing.left_out


class _Watch:
    """What an audit does with each call."""

    def __init__(self, report: Report, every: int, precision: Precision | None) -> None:
        self.report, self.every, self.precision = report, every, precision
        self.recorder = Recorder(self.receive, in_graph=True, passed_over=self.pass_over)
        self.comparing = Comparing()
        self.keys: dict[int, Tensor] = {}
        # The number of the forward that runs, and how many of a model's forwards run, nested.
        self.forward, self.running = [-1], 0
        self.calls = 0

    @property
    def counts(self) -> bool:
        """Whether a call is one of those that are to be judged."""
        if self.report.model is None or self.running:
            return True
        self.report.elsewhere += 1
        return False

    def pass_over(self, function: str, reason: str) -> None:
        if self.counts:
            self.report.calls += 1
            self.report.passed_over[function, reason] += 1

    @torch.no_grad()
    def receive(self, call: AttentionCall) -> None:
        """Judge a call; nothing that goes wrong with that is the model's affair."""
        if not self.counts:
            return
        report, model = self.report, self.report.model
        report.calls += 1
        before = None
        if model is not None:
            before, self.keys[call.layer] = self.keys.get(call.layer), call.key
            if report.blame is not None or self.forward[0] % self.every:
                return
        try:
            self._judge(call, before)
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            report.passed_over[call.named, text or type(error).__name__] += 1

    def _judge(self, call: AttentionCall, before: Tensor | None) -> None:
        report = self.report
        if call.visible.numel() > _LARGEST:
            size = call.visible.numel() * 8 / 2**30
            raise ValueError(
                f"its scores take {size:.1f} GiB in float64: audit fewer rows or slots"
            )
        sighting = Sighting.of(call, report.calls, _place(), self.precision)
        blame = sighting.blame
        if sighting.reason:
            report.passed_over[call.named, sighting.reason] += 1
        else:
            report.judged += 1
        if report.model is not None:
            own = own_slots(before, call)
            report.placed += own is not None
            blame = (None if own is None else misplaced(call, own)) or blame
        if report.blame is None:
            report.blame, report.forward = blame, self.forward[0]
        report.add(sighting, self.comparing.add(sighting))

    @contextlib.contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Count forwards of the model in the block, and look for layers without calls."""
        recorder, report = self.recorder, self.report
        report.coverage = Coverage(model)

        def starts(*_: object) -> None:
            if self.running:
                self.running += 1
                return
            self.forward[0], self.running = self.forward[0] + 1, 1
            recorder.forward()
            # The forward before one that is judged is watched too: it shows what the keys were.
            recorder.asleep = self.forward[0] % self.every not in (0, self.every - 1)
            report.calls += self.calls if recorder.asleep else 0

        def ends(*_: object) -> None:
            self.running -= 1
            if not self.running and not recorder.asleep:
                self.calls = recorder.layer
                report.silent += [] if recorder.layer else [self.forward[0]]

        before = model.register_forward_pre_hook(starts)
        after = model.register_forward_hook(ends, always_call=True)
        try:
            with report.coverage.hooked(recorder, self.forward):
                yield
        finally:
            before.remove()
            after.remove()
            report.forwards = self.forward[0] + 1


def _place() -> str:
    """Where in the user's own code the call was made."""
    stack = traceback.walk_stack(sys._getframe())
    frames = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in stack]
    return where(frames[::-1])
