"""Functions of torch that compute attention where it cannot be seen: their calls are counted."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from harness.auditing.recorder import watching
from harness.auditing.replacing import Watched

_FAST = "torch.backends.mha.set_fastpath_enabled(False) lets it call SDPA"


def _counted(function: Callable[..., Any], name: str, reason: str) -> Callable[..., Any]:
    """``function``, which a recorder is told of where it has seen no call within it."""

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or (recorder := watching()) is None:
            return function(*args, **kwargs)
        met = recorder.met
        output = function(*args, **kwargs)
        if recorder.met == met:
            recorder.pass_over(name, reason)
        return output

    return watched


BY_HAND: Watched = {
    F.multi_head_attention_forward: _counted(
        F.multi_head_attention_forward,
        "nn.MultiheadAttention",
        "by hand, since it returns its weights: need_weights=False lets it call SDPA",
    ),
    torch._native_multi_head_attention: _counted(
        torch._native_multi_head_attention,
        "nn.MultiheadAttention",
        f"in its fast path: {_FAST}",
    ),
    torch._transformer_encoder_layer_fwd: _counted(
        torch._transformer_encoder_layer_fwd,
        "nn.TransformerEncoderLayer",
        f"in its fast path: {_FAST}",
    ),
}
