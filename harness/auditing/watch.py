"""Watching the attention calls of any PyTorch model: each against its own mask in float64, and its
mask against the slots that were written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harness.auditing.blame import Blame, Cause, few
from harness.auditing.call import AttentionCall
from harness.auditing.deciding import kernel_blame
from harness.auditing.observe import observed
from harness.auditing.recorder import Recorder
from harness.auditing.remedies import remedy
from harness.oracle.budget import Precision
from harness.verdict import Verdict


@dataclass
class Report:
    """What the calls in a block showed.

    ``calls`` were made in forwards of the model, taken to be as many in one that was not watched as
    in the last that was; ``judged`` of them were judged; of ``placed`` it was known in which slots
    their tokens lie. ``blame`` is of the first that was off, or None;
    ``forward`` counts from 0.
    """

    calls: int = 0
    judged: int = 0
    placed: int = 0
    blame: Blame | None = None
    forward: int = 0

    @property
    def verdict(self) -> Verdict:
        """WRONG, OK, or UNSUPPORTED where no call was judged, as within ``torch.compile``."""
        if self.blame is not None:
            return Verdict.WRONG
        return Verdict.OK if self.judged else Verdict.UNSUPPORTED

    def __str__(self) -> str:
        text = (
            f"{self.verdict} {self.judged} of {self.calls} attention calls judged, {self.placed} of"
            " them by the slots that were written"
        )
        if self.blame is None:
            return text
        where = (
            f"{self.blame.what}, first in forward {self.forward}, layer {self.blame.layer},"
            f" sequence {self.blame.sequence}"
        )
        return "\n  ".join([text, where, *self.blame.evidence, f"remedy: {remedy(self.blame)}"])


@contextlib.contextmanager
def audit(
    model: nn.Module, *, every: int = 1, precision: Precision | None = None
) -> Iterator[Report]:
    """Judge attention calls of ``model`` in the block, whatever it calls attention by:
    ``flex_attention``, SDPA, or transformers' table of attention functions.

    A call is judged against float64 over the slots that its mask shows. Where it can be seen in
    which slots the newest tokens lie (as many keys changed since the layer's last call as there are
    queries), a query must see its own slot, and none after it. Padding and windows are the mask's
    own affair.

    Args:
        every: judge each so many forwards; the one before each of them costs a copy of its calls.
        precision: what attention declares, by default float32 arithmetic on its inputs' dtype.

    Raises:
        ValueError: for ``every`` below 1.
    """
    if every < 1:
        raise ValueError(f"every: {every} is not a whole number >= 1")
    report, forwards = Report(), _Forwards()
    keys: dict[int, Tensor] = {}

    def receive(call: AttentionCall) -> None:
        if not forwards.running:
            return
        report.calls += 1
        before, keys[call.layer] = keys.get(call.layer), call.key
        if report.blame is not None or forwards.count % every:
            return
        report.judged += 1
        own = _own_slots(before, call)
        report.placed += own is not None
        report.blame = (None if own is None else _misplaced(call, own)) or kernel_blame(
            call, precision
        )
        report.forward = forwards.count

    recorder = Recorder(receive)

    def starts(*_: object) -> None:
        forwards.count, forwards.running = forwards.count + 1, True
        recorder.forward()
        # The forward before one that is judged is watched too, since it shows what the keys were.
        recorder.asleep = forwards.count % every not in (0, every - 1)
        report.calls += forwards.calls if recorder.asleep else 0

    def ends(*_: object) -> None:
        forwards.running = False
        if not recorder.asleep:
            forwards.calls = recorder.layer

    before = model.register_forward_pre_hook(starts)
    after = model.register_forward_hook(ends, always_call=True)
    try:
        with observed(recorder):
            yield report
    finally:
        before.remove()
        after.remove()


@dataclass
class _Forwards:
    count: int = field(default=-1)
    running: bool = False
    calls: int = 0


def _own_slots(before: Tensor | None, call: AttentionCall) -> Tensor | None:
    """The slots ``[Q]`` into which the tokens of the queries were written, or None where that
    cannot be told: keys that were there have moved, or more changed than there are queries."""
    key, count = call.key, call.query.size(2)
    old = torch.zeros_like(key)
    if before is not None:
        if before.shape[:2] != key.shape[:2] or before.size(2) > key.size(2):
            return None
        old[:, :, : before.size(2)] = before
    changed = (key != old).any(-1).any(1)
    if not (changed == changed[0]).all():
        return None
    slots = changed[0].nonzero().flatten()
    return slots if slots.numel() == count else None


def _misplaced(call: AttentionCall, own: Tensor) -> Blame | None:
    later = torch.arange(call.key.size(2)) > own.unsqueeze(1)
    for b in range(call.query.size(0)):
        visible = call.visible[b].any(0)
        beyond, blind = visible & later, ~visible.gather(1, own.unsqueeze(1)).squeeze(1)
        # A row that sees nothing is padding.
        wrong = beyond.any(-1) | (blind & visible.any(-1))
        if not wrong.any():
            continue
        row = int(wrong.nonzero()[0])
        slots = beyond[row].nonzero().flatten().tolist()
        evidence = f"the query whose key lies in slot {int(own[row])} "
        if slots:
            name = "offset-one-high" if len(slots) == 1 else "offset-high"
            evidence += f"sees slots {few(slots)} after it"
        else:
            name = ""
            evidence += "does not see it"
        return Blame(Cause.MASK, name, (evidence,), call.layer, b, int(own[row]), row)
    return None
