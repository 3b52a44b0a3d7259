"""Traps: calls that are the caller's error, and whether torch refuses them or lets them pass.

None of them is a defect of a kernel. A call that passes gives numbers, and the trap says whose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from harness.paths.compile import Compiled, why_not

_B, _H, _S, _D = 4, 4, 256, 16
_POS = (3, 200, 100, 255)


@dataclass(frozen=True)
class Trap:
    """One such call: what ``the caller`` does, and what comes of it ``eager`` and ``compiled``:
    torch's refusal, or ``passes``, with the error against what was meant where that is clear."""

    caller: str
    eager: str
    compiled: str

    def __str__(self) -> str:
        return f"{self.caller}: eager {self.eager}; compiled {self.compiled}"

    @property
    def silent(self) -> bool:
        """Whether it passes somewhere."""
        return "passes" in (self.eager[:6], self.compiled[:6])


@dataclass(frozen=True)
class _Call:
    query: Tensor
    key: Tensor
    value: Tensor
    mask: BlockMask
    wanted: Tensor | None


def _caches() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(_B, _H, 1, _D, generator=generator)
    k, v = (torch.randn(_B, _H, _S, _D, generator=generator) for _ in range(2))
    return q, k, v, torch.tensor(_POS)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, pos: Tensor) -> Tensor:
    allowed = torch.arange(k.size(2)) <= pos[:, None]
    return torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), attn_mask=allowed[:, None, None]
    )


def _made(batch: int | None, heads: int | None, slots: int = _S) -> _Call:
    """A call with a block mask of this batch and these heads, over so many slots."""
    q, k, v, pos = _caches()

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx <= pos[b] + q_idx

    mask = create_block_mask(mask_mod, batch, heads, 1, slots, "cpu", BLOCK_SIZE=64)
    return _Call(q, k, v, mask, _sdpa(q, k, v, pos))


def _without_batch() -> _Call:
    return _made(None, None)


def _half_the_batch() -> _Call:
    return _made(_B // 2, None)


def _half_the_heads() -> _Call:
    return _made(_B, _H // 2)


def _shorter() -> _Call:
    return _made(_B, None, _S // 2)


def _longer() -> _Call:
    return _made(_B, None, 2 * _S)


def _stale_table() -> _Call:
    """A mask_mod whose positions moved on after its tables were made."""
    q, k, v, pos = _caches()
    now = torch.zeros(_B, dtype=torch.int64)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx <= now[b] + q_idx

    mask = create_block_mask(mask_mod, _B, None, 1, _S, "cpu", BLOCK_SIZE=64)
    now.copy_(pos)
    return _Call(q, k, v, mask, _sdpa(q, k, v, pos))


def _full_that_is_not() -> _Call:
    """Tables that list as full a block of which the mask shows a part."""
    q, k, v, pos = _caches()
    call = _made(_B, None)
    counts = (pos // 64 + 1).to(torch.int32).view(_B, 1, 1)
    indices = torch.arange(4, dtype=torch.int32).expand(_B, 1, 1, 4).contiguous()
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        indices.clone(),
        counts,
        indices,
        BLOCK_SIZE=64,
        mask_mod=call.mask.mask_mod,
        seq_lengths=(1, _S),
    )
    return _Call(q, k, v, mask, call.wanted)


def _twice() -> _Call:
    """Tables that list a block twice."""
    call = _made(_B, None)
    indices = torch.tensor([0, 0, 1, 1], dtype=torch.int32).expand(_B, 1, 1, 4).contiguous()
    mask = BlockMask.from_kv_blocks(
        torch.full_like(call.mask.kv_num_blocks, 3),
        indices,
        BLOCK_SIZE=64,
        mask_mod=lambda b, h, q, kv: kv < 128,
        seq_lengths=(1, _S),
    )
    wanted = _sdpa(call.query, call.key, call.value, torch.full((_B,), 127))
    return _Call(call.query, call.key, call.value, mask, wanted)


TRAPS: dict[str, Callable[[], _Call]] = {
    "create_block_mask with B=None, where the mask depends on b": _without_batch,
    "a block mask for half of the sequences": _half_the_batch,
    "a block mask for half of the heads": _half_the_heads,
    "a block mask for fewer slots than the cache has": _shorter,
    "a block mask for more slots than the cache has": _longer,
    "a mask_mod whose positions moved on after its tables were made": _stale_table,
    "a block listed as full of which the mask shows a part": _full_that_is_not,
    "a block listed twice": _twice,
}


def spring(name: str) -> Trap:
    """Make the call of a trap, eagerly and, where there is a compiler, compiled."""
    return Trap(name, _ends(TRAPS[name], eager=True), _ends(TRAPS[name], eager=False))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    return flex_attention(q, k, v, block_mask=mask)


def _ends(make: Callable[[], _Call], *, eager: bool) -> str:
    if not eager and (reason := why_not("cpu")):
        return f"not run, {reason}"
    attend = _attend if eager else Compiled(_attend, dynamic=False)
    try:
        call = make()
        with torch.no_grad():
            output = attend(call.query, call.key, call.value, call.mask)
    except Exception as error:
        return f"refused, {type(error).__name__}: {str(error).splitlines()[0][:110]}"
    if call.wanted is None:
        return "passes"
    off = (output.double() - call.wanted).norm() / call.wanted.norm()
    if not off.isfinite() or off > torch.finfo(torch.float32).eps ** 0.5:
        return f"passes, {off:.0%} off what was meant"
    return "passes, right"
