"""What masks and changes of scores say, as an audit needs them: visible slots, and score_mods."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from harness.auditing.call import ScoreMod


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
