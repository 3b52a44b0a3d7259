"""Fault models of the sliding window and of its ring buffer: classes 7 and 8."""

from __future__ import annotations

from torch import Tensor

from harness.faults.fault import Register
from harness.faults.model import Attention

fault = Register()


def _window(a: Attention) -> int | None:
    return a.case.mask_arguments.get("window")


@fault(
    7,
    "the window is one slot too wide: `<=` for `<`",
    "a window of W holds the token itself and W - 1 before it",
    "vllm#3385, mlx-lm PR#390",
)
def window_one_wide(a: Attention) -> Attention | None:
    width = _window(a)
    return a.mask(a.visible(a.position, window=width + 1)) if width else None


@fault(
    7,
    "the window is one slot too narrow",
    "a window of W holds the token itself and W - 1 before it",
    "vllm#3385, nanochat PR#456",
)
def window_one_narrow(a: Attention) -> Attention | None:
    width = _window(a)
    return a.mask(a.visible(a.position, window=width - 1)) if width else None


@fault(
    7,
    "the window is ignored where there is one query token",
    "apply the window to decode steps too",
    "mlx-lm PR#390, lalamo PR#200",
)
def window_ignored_in_decode(a: Attention) -> Attention | None:
    decodes = _window(a) and a.case.q_len == 1
    return a.mask(a.visible(a.position, window=a.case.cache_len)) if decodes else None


@fault(
    7,
    "the window is measured from the query's number in the call, not from its position",
    "measure it from q_idx + input_pos[b]",
    "vllm#3385, nanochat PR#456",
)
def window_without_offset(a: Attention) -> Attention | None:
    width = _window(a)
    if not width:
        return None
    # This window is as wide as it must be to begin where that of the query's number would.
    return a.mask(a.visible(a.position, window=width + a.position - a.token))


@fault(
    8,
    "a ring buffer wraps one slot early: the window's oldest token is gone, an empty slot attended",
    "a ring for a window of W has W slots",
    "transformers#37574",
)
def ring_wraps_early(a: Attention) -> Attention | None:
    width = _window(a)
    if not width:
        return None
    # The model cannot give rows different keys, so the slot that is lost becomes the empty one:
    # its score is 0, and its value adds nothing.
    lost = a.allowed & ~a.visible(a.position, window=width - 1)

    def scores(inner: Attention) -> Tensor:
        return a.scores(inner).masked_fill(lost, 0.0)

    def combine(inner: Attention, weights: Tensor) -> Tensor:
        return a.combine(inner, weights.masked_fill(lost, 0.0))

    return a.but(scores=scores, combine=combine)


@fault(
    8,
    "a ring buffer wraps one slot late: the newest token overwrote the one before it, an outdated"
    " one is still there",
    "slot t % W belongs to token t",
    "transformers#37574",
)
def ring_wraps_late(a: Attention) -> Attention | None:
    width = _window(a)
    if not width:
        return None
    overwritten = (a.slot == a.position - 1) & (a.position >= width)
    return a.mask(a.visible(a.position, window=width + 1) & ~overwritten)


@fault(
    7,
    "the window of every query token begins where that of the chunk's first one does",
    "measure the window from each query token's own position",
    "vllm#3385, nanochat PR#456",
)
def window_of_first_row(a: Attention) -> Attention | None:
    width = _window(a)
    if not width or a.case.q_len == 1:
        return None
    return a.mask(a.visible(a.position, window=width + a.token))


@fault(
    7,
    "the dilation is ignored: every slot of the window is attended",
    "attend a slot only where its distance is a multiple of the dilation",
    "no public report known",
)
def dilation_ignored(a: Attention) -> Attention | None:
    if "dilation" not in a.case.mask_arguments:
        return None
    return a.mask(a.visible(a.position, dilation=1))


@fault(
    7,
    "the dilation is counted from slot 0 instead of from the query",
    "take the distance of the query's position, not the slot's number",
    "no public report known",
)
def dilation_from_slot_zero(a: Attention) -> Attention | None:
    dilation = a.case.mask_arguments.get("dilation")
    if dilation is None:
        return None
    return a.mask(a.visible(a.position, dilation=1) & (a.slot % dilation == 0))
