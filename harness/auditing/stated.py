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
    mask = mask[..., : shape[-1]].detach().to("cpu", copy=True).expand(shape)
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
    device = mask.kv_num_blocks.device  # that of what its rule may read
    says = create_mask(mask.mask_mod, batch, heads, queries, slots, device=str(device))
    return says.to("cpu", copy=True).expand(shape)


def modified(mod: Callable[..., Tensor], shape: tuple[int, ...], device: torch.device) -> ScoreMod:
    """A score_mod of flex_attention on scores of ``shape`` ``[B, Hq, Q, S]``, evaluated on the
    ``device`` of what it may read."""
    indices = [torch.arange(n, device=device) for n in shape]

    def score_mod(score: Tensor) -> tuple[Tensor, Tensor]:
        function = mod
        for axis in reversed(range(4)):
            dims = [None] * 4
            dims[axis] = 0  # type: ignore[call-overload]
            function = torch.vmap(function, in_dims=(0, *dims))
        changed = function(score.to(device), *indices).cpu()
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


def four(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Query, key, value ``[..., S, D]`` and mask of SDPA, with as many dims and such batches as it
    takes, as ``[B, H, ..., ...]`` each; the same objects where they are so already."""
    if query.dim() == key.dim() == value.dim() == 4 and query.size(0) == key.size(0):
        return query, key, value, mask
    dims = max(query.dim(), key.dim(), value.dim(), 4)
    if query.dim() == 3 and mask is not None and mask.dim() == 3:
        mask = mask.unsqueeze(1)
    # Without a dim of heads, the first is the batch.
    tensors = [x.unsqueeze(-3) if x.dim() == 3 else x for x in (query, key, value)]
    tensors = [x.reshape(*(1,) * (dims - x.dim()), *x.shape) for x in tensors]
    batch = torch.broadcast_shapes(*(x.shape[:-3] for x in tensors))
    if mask is not None:
        mask = mask.expand(*batch, tensors[0].size(-3), *mask.shape[-2:]).flatten(0, -4)
    query, key, value = (x.expand(*batch, *x.shape[-3:]).flatten(0, -4) for x in tensors)
    return query, key, value, mask
