"""Faults of state: what goes wrong between the calls of a decode loop, each planted in a sound
cache class by changing one of its methods.

``number`` is the class of the fault; without a public report it is 0 and the source says what the
fault is like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness.serving.caches import DenseCache, RingCache
from harness.serving.pages import GatheredPages

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class StateFault:
    """One fault: the class that has it, its ``number``, what it does, its remedy and a source."""

    name: str
    cls: type
    number: int
    summary: str
    remedy: str
    source: str


STATE_FAULTS: list[StateFault] = []


def _fault(number: int, remedy: str, source: str) -> Callable[[T], T]:
    """Register the decorated class, whose docstring says what the fault is."""

    def register(cls: T) -> T:
        name = "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).strip("-")
        summary = (cls.__doc__ or "").rstrip(".")
        STATE_FAULTS.append(StateFault(name, cls, number, summary, remedy, source))
        return cls

    return register


@_fault(4, "advance after the last layer of the step", "kv_cache.update order in gpt-fast forks")
class AdvancedBeforeRead(DenseCache):
    """The position is advanced before the mask reads it."""

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        row = torch.arange(query.size(2), device=query.device)
        slots = self.position[:, None] + row
        self.write(key, value, slots, row < query_lens[:, None])
        self.position += query_lens
        return self.attend(query, self.position[:, None] + row)


@_fault(37, "capture a copy of the position", "pytorch#146377")
class LivePositionCaptured(DenseCache):
    """A mask_mod captures the position's own tensor, which moves before attention runs."""

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        position, window = self.position, self.window

        def visible(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            inside = kv <= position[b] + q
            return inside if window is None else inside & (kv > position[b] + q - window)

        row = torch.arange(query.size(2), device=query.device)
        self.write(key, value, position[:, None] + row, row < query_lens[:, None])
        batch, q_len, slots = query.size(0), query.size(2), self.key.size(2)
        device = query.device.type
        mask = create_block_mask(visible, batch, None, q_len, slots, device=device)
        self.position += query_lens
        out = flex_attention(query, self.key, self.value, block_mask=mask, enable_gqa=True)
        assert isinstance(out, Tensor)
        return out


@_fault(23, "write at input_pos, the number of tokens held", "onnxruntime-genai PR#2354")
class WrittenOneSlotLate(DenseCache):
    """New tokens are written one slot late."""

    def write(self, key: Tensor, value: Tensor, slots: Tensor, new: Tensor) -> None:
        super().write(key, value, (slots + 1).clamp(max=self.key.size(2) - 1), new)


@_fault(23, "write at input_pos and attend up to it", "onnxruntime-genai PR#2354")
class WrittenAndReadOneSlotLate(DenseCache):
    """Tokens are written one slot late and read one slot late: slot 0 is a hole, and attended."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given | {"cache_len": given["cache_len"] + 1})

    def write(self, key: Tensor, value: Tensor, slots: Tensor, new: Tensor) -> None:
        super().write(key, value, slots + 1, new)

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        return super().attend(query, slots + 1)

    contents = None  # type: ignore[assignment]
    poison = None  # type: ignore[assignment]


@_fault(8, "drop the padding of a ragged batch where it is written", "transformers#37574")
class PaddingWraps(DenseCache):
    """Padding that is written past the end of the cache lands in its first slots."""

    def write(self, key: Tensor, value: Tensor, slots: Tensor, new: Tensor) -> None:
        past = slots >= self.key.size(2)
        super().write(key, value, slots % self.key.size(2), new | past)


@_fault(24, "move the position back with the tokens", "aprender PR#2014")
class RollbackLeavesPosition(DenseCache):
    """A rollback leaves the position where it was."""

    def rollback(self, n: Tensor) -> None:
        pass


@_fault(24, "set the position to 0 when a slot of the batch is used again", "aprender PR#2014")
class ReusedWithoutReset(DenseCache):
    """A new sequence goes on where the one before it ended."""

    def reset(self, sequences: list[int]) -> None:
        # Where there is no room for what may come, a real server would notice.
        full = self.position[sequences] >= self.key.size(2) // 2
        self.position[sequences] = torch.where(full, 0, self.position[sequences])


@_fault(24, "bound the mask by the present length", "aprender PR#2014")
class EvictedStillAttended(DenseCache):
    """The mask is bounded by the longest length that a sequence of the batch's slot ever had."""

    most: Tensor | None = None

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        every = torch.arange(self.key.size(2), device=query.device)
        first = slots[:, :1] if self.most is None else torch.maximum(self.most, slots[:, :1])
        self.most = first
        allowed = every <= (first + slots - slots[:, :1])[..., None]
        if self.window is not None:
            allowed &= every > slots[..., None] - self.window
        return self.masked(query, allowed)


@_fault(3, "give each sequence its own length", "candle-vllm PR#140")
class MaximumUsedForAll(DenseCache):
    """The longest sequence's length is used for all."""

    def attend(self, query: Tensor, slots: Tensor) -> Tensor:
        return super().attend(query, slots.amax(dim=0, keepdim=True).expand_as(slots))


@_fault(26, "write all heads", "flash-attention#772")
class FirstHeadWritten(DenseCache):
    """Values are written for the first KV head alone."""

    def write(self, key: Tensor, value: Tensor, slots: Tensor, new: Tensor) -> None:
        kept = self.value[:, 1:].clone()
        super().write(key, value, slots, new)
        self.value[:, 1:] = kept


@_fault(27, "write keys and values before attention", "report 27 of the fault classes")
class ValuesOneStepStale(DenseCache):
    """Values are written after attention, so that those of the step's own tokens are missing."""

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        row = torch.arange(query.size(2), device=query.device)
        slots, new = self.position[:, None] + row, row < query_lens[:, None]
        b, i = new.nonzero(as_tuple=True)
        self.key[b, :, slots[b, i]] = key[b, :, i]
        out = self.attend(query, slots)
        self.write(key, value, slots, new)
        self.position += query_lens
        return out


@_fault(25, "start from zeros, or mask the values", "flash-attention#1745")
class NanThroughZeroWeight(DenseCache):
    """Free slots that hold NaN are multiplied with weights of 0."""

    supports = ("nonfinite_tail",)


@_fault(0, "copy all tokens that are held", "like class 24, when a cache grows")
class GrowLosesLastToken(DenseCache):
    """The last token is lost when the cache grows."""

    def grow(self, cache_len: int) -> None:
        super().grow(cache_len)
        held = (self.position > 0).nonzero().flatten()
        self.value[held, :, self.position[held] - 1] = 0


@_fault(8, "keep as many slots as the window is wide", "transformers#37574")
class RingWrapsOneLate(RingCache):
    """The ring has one slot more than the window."""

    def slots(self, window: int) -> int:
        return window + 1


@_fault(8, "keep as many slots as the window is wide", "transformers#37574")
class RingWrapsOneEarly(RingCache):
    """The ring has one slot fewer than the window."""

    def slots(self, window: int) -> int:
        return max(1, window - 1)


class _Changed(GatheredPages):
    """Pages of a changed kind."""

    def change(self, **methods: Callable[..., Any]) -> None:
        """Replace methods of the pages."""
        for name, method in methods.items():
            setattr(self.pages, name, method)


@_fault(0, "copy a shared page before it is written into", "vLLM's copy-on-write blocks")
class ForkSharesLastPage(_Changed):
    """A fork goes on writing into the last, half-filled page that it shares."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.change(_unshare=lambda sequence: None)


@_fault(17, "count the users of a page", "vllm#42494")
class PageFreedTwice(_Changed):
    """A page goes back to the free list for each sequence that shared it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.change(_give_back=self.pages.free.append)


@_fault(17, "build the table anew in each step", "vllm PR#30915")
class PageTableKept(_Changed):
    """A table of pages is used again where a sequence has as many pages as before."""

    def attend(self, query: Tensor, query_lens: Tensor) -> Tensor:
        tables = self.pages.tables
        kept = getattr(self, "kept", None) or [[] for _ in tables]
        self.kept = [
            old if len(old) == len(new) else list(new)
            for old, new in zip(kept, tables, strict=True)
        ]
        self.pages.tables = self.kept
        try:
            return super().attend(query, query_lens)
        finally:
            self.pages.tables = tables


@_fault(15, "plan after the new tokens are counted", "pegainfer#291")
class PlanFromTheStepBefore(_Changed):
    """The pages to attend are counted before the step's tokens are written."""

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        plan = [max(1, len(table)) for table in self.pages.tables]
        self.pages.append(key, value, query_lens.tolist())
        tables = self.pages.tables
        self.pages.tables = [table[:n] for table, n in zip(tables, plan, strict=True)]
        try:
            return self.attend(query, query_lens)
        finally:
            self.pages.tables = tables


@_fault(24, "mask the last page by the sequence's length", "pytorch#159247")
class LastPageAttendedInFull(_Changed):
    """All slots of the last page are attended."""

    def end(self, position: Tensor) -> Tensor:
        return (position // self.pages.page_size + 1) * self.pages.page_size


class CompactPages(GatheredPages):
    """Pages that are moved to the front of the pool when a sequence is released; sound."""

    off = 0

    def release(self, sequences: list[int]) -> None:
        """Give pages back, then fill the holes with the last pages."""
        super().release(sequences)
        pages = self.pages
        used = sorted(page for page, users in pages.users.items() if users)
        holes = sorted(page for page in pages.free if page <= len(used))
        for hole in holes:
            last = used.pop()
            moved = max(1, last - self.off)
            pages.key[hole], pages.value[hole] = pages.key[moved], pages.value[moved]
            pages.tables = [[hole if p == last else p for p in table] for table in pages.tables]
            pages.users[hole] = pages.users.pop(last)
            pages.free[pages.free.index(hole)] = last


@_fault(17, "move the page that the table is changed for", "vllm PR#53856")
class WrongPageMoved(CompactPages):
    """Another page is moved into the hole than the table says."""

    off = 1
