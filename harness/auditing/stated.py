"""What masks and changes of scores say, as an audit needs them: visible slots, and score_mods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from harness.auditing.call import ScoreMod


def stated_scale(scale: float | None, query: Tensor) -> float:
    """The scale that a call is given, or the one that attention takes by itself."""
    return 1 / math.sqrt(query.size(-1)) if scale is None else scale


def interface_options(
    module: Any, query: Tensor, mask: Any, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call through transformers' table of attention functions is given: ``causal``,
    ``scale``, ``softcap``, 0 for none, and ``sink``."""
    return {
        # Where there is no mask, transformers lets SDPA make a causal one, to the top left.
        "causal": mask is None and query.size(2) > 1,
        "scale": stated_scale(options.get("scaling"), query),
        "softcap": float(options.get("softcap") or 0.0),
        "sink": options.get("s_aux", getattr(module, "sinks", None)),
    }


def stated_mask(
    mask: Tensor | None, shape: tuple[int, ...], *, causal: bool = False
) -> tuple[Tensor, ScoreMod | None]:
    """What a mask tensor says: the visible slots, bool of ``shape`` ``[B, Hq, Q, S]``, and the
    bias that it adds to scores, or None.

    A bias below half of the dtype's lowest number stands for a slot that is hidden, as -inf does.
    ``causal`` hides slots as SDPA does, aligned to the top left.
    """
    shown = torch.ones(shape, dtype=torch.bool)
    shown = shown.tril() if causal else shown
    if mask is None:
        return shown, None
    mask = mask[..., : shape[-1]].detach().clone().expand(shape)
    if mask.dtype is torch.bool:
        return mask & shown, None
    visible = mask > torch.finfo(mask.dtype).min / 2
    bias = mask.double().masked_fill(~visible, 0.0)
    return visible & shown, (lambda score: (score + bias, bias.abs())) if bias.any() else None


def block_mask_says(mask: BlockMask | None, shape: tuple[int, ...]) -> Tensor:
    """The slots that a block mask shows, bool of ``shape`` ``[B, Hq, Q, S]``."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    batch, heads, queries, slots = shape
    says = create_mask(mask.mask_mod, batch, heads, queries, slots, device="cpu")
    return says.expand(shape).clone()


def modified(mod: Callable[..., Tensor], shape: tuple[int, ...]) -> ScoreMod:
    """A score_mod of flex_attention on scores of ``shape`` ``[B, Hq, Q, S]``."""
    indices = [torch.arange(n) for n in shape]

    def score_mod(score: Tensor) -> tuple[Tensor, Tensor]:
        function = mod
        for axis in reversed(range(4)):
            dims = [None] * 4
            dims[axis] = 0  # type: ignore[call-overload]
            function = torch.vmap(function, in_dims=(0, *dims))
        changed = function(score, *indices)
        # What lies between is the model's own affair; twice either side of it is ample.
        return changed, 2 * (score.abs() + changed.abs())

    return score_mod


def softcapped(softcap: float, then: ScoreMod | None) -> ScoreMod:
    """Scores capped by ``softcap * tanh(s / softcap)``, and changed by ``then`` after it."""

    def score_mod(score: Tensor) -> tuple[Tensor, Tensor | float]:
        score = softcap * torch.tanh(score / softcap)
        changed, size = then(score) if then is not None else (score, 0.0)
        return changed, size + 4 * softcap

    return score_mod
