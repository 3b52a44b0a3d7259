"""Pages: a paged KV cache with a page table, whose pages lie in no order and hold junk until they
are written.

Subclass `PagedCache` to judge a paged kernel; its ``attend`` is all that you write::

    class Mine(PagedCache):
        def attend(self, query, query_lens):
            pages = self.pages
            return kernel(query, pages.key, pages.value, pages.block_table, pages.seq_lens)

Management is on the host, as in a server: pages come from a shuffled list, are given back and used
again, and are shared by sequences that were forked, up to the first write into them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

JUNK = 1e4
# Unused entries of the table name this page, which holds junk at all times.
TRAP = 0


class Pages:
    """Keys and values in pages of ``page_size`` slots, for ``batch_size`` sequences of up to
    ``cache_len`` tokens each.

    ``key`` is ``[P, page_size, Hkv, D]`` and ``value`` ``[P, page_size, Hkv, Dv]``, the layout that
    vLLM and FlashInfer (NHD) share. ``lengths`` counts the tokens of each sequence.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        page_size: int,
        value_head_dim: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.page_size, self._chance = page_size, random.Random(seed)
        self.lengths = [0] * batch_size
        self.tables: list[list[int]] = [[] for _ in range(batch_size)]
        self.users: Counter[int] = Counter()
        self.free: list[int] = []
        self.cache_len = 0
        self.key, self.value = (
            torch.full((1, page_size, num_kv_heads, dim), JUNK, dtype=dtype, device=device)
            for dim in (head_dim, value_head_dim or head_dim)
        )
        self.grow(cache_len)

    @property
    def block_table(self) -> Tensor:
        """The pages of each sequence in their order, int32 ``[B, n]`` with as many as a full cache
        has; entries that are not in use name a page of junk."""
        width = -(-self.cache_len // self.page_size)
        rows = [table + [TRAP] * (width - len(table)) for table in self.tables]
        return torch.tensor(rows, dtype=torch.int32, device=self.key.device)

    @property
    def seq_lens(self) -> Tensor:
        """How many tokens each sequence holds, int32 ``[B]``."""
        return torch.tensor(self.lengths, dtype=torch.int32, device=self.key.device)

    def append(self, key: Tensor, value: Tensor, query_lens: Sequence[int]) -> None:
        """Write the first ``query_lens[b]`` tokens of ``key`` ``[B, Hkv, Q, D]`` and ``value``
        behind those that sequence b holds."""
        for b, count in enumerate(query_lens):
            self._reserve(b, count)
            page, slot = self._places(b, range(self.lengths[b], self.lengths[b] + count))
            self.key[page, slot] = key[b, :, :count].transpose(0, 1)
            self.value[page, slot] = value[b, :, :count].transpose(0, 1)
            self.lengths[b] += count

    def rollback(self, counts: Sequence[int]) -> None:
        """Take back the last ``counts[b]`` tokens of sequence b, and the pages that empties."""
        for b, count in enumerate(counts):
            self.lengths[b] -= count
            needed = -(-self.lengths[b] // self.page_size)
            while len(self.tables[b]) > needed:
                self._give_back(self.tables[b].pop())

    def reset(self, sequences: Sequence[int]) -> None:
        """Empty these sequences and give their pages back."""
        for b in sequences:
            for page in self.tables[b]:
                self._give_back(page)
            self.tables[b], self.lengths[b] = [], 0

    def fork(self, source: int, target: int) -> None:
        """Make ``target`` a copy of ``source`` that shares its pages."""
        self.reset([target])
        self.tables[target] = list(self.tables[source])
        self.lengths[target] = self.lengths[source]
        self.users.update(self.tables[target])

    def grow(self, cache_len: int) -> None:
        """Let each sequence have up to ``cache_len`` tokens."""
        old = self.key.size(0)
        self.cache_len = cache_len
        pages = 1 + len(self.lengths) * -(-cache_len // self.page_size)
        for name in ("key", "value"):
            pool = getattr(self, name)
            more = torch.full_like(pool[:1], JUNK).expand(pages - old, -1, -1, -1)
            setattr(self, name, torch.cat([pool, more]))
        self.free += range(old, pages)
        self._chance.shuffle(self.free)

    def poison(self, value: float) -> None:
        """Fill every slot that holds no token of a sequence."""
        held = torch.zeros(self.key.shape[:2], dtype=torch.bool)
        for b, length in enumerate(self.lengths):
            page, slot = self._places(b, range(length))
            held[page, slot] = True
        free = ~held[:, :, None, None].to(self.key.device)
        for pool in (self.key, self.value):
            pool.masked_fill_(free, value)

    def contents(self, sequence: int) -> tuple[Tensor, Tensor]:
        """The keys ``[Hkv, n, D]`` and values ``[Hkv, n, Dv]`` of a sequence."""
        page, slot = self._places(sequence, range(self.lengths[sequence]))
        return self.key[page, slot].transpose(0, 1), self.value[page, slot].transpose(0, 1)

    def _places(self, sequence: int, positions: range) -> tuple[Tensor, Tensor]:
        """The page and the slot in it of each of these positions."""
        table = self.tables[sequence]
        pages = [table[p // self.page_size] for p in positions]
        slots = [p % self.page_size for p in positions]
        return torch.tensor(pages, dtype=torch.int64), torch.tensor(slots, dtype=torch.int64)

    def _reserve(self, sequence: int, count: int) -> None:
        """Pages for ``count`` more tokens, the one that is written into unshared."""
        table, length = self.tables[sequence], self.lengths[sequence]
        if count and length % self.page_size and self.users[table[-1]] > 1:
            self._unshare(sequence)
        while len(table) * self.page_size < length + count:
            table.append(self._take())

    def _unshare(self, sequence: int) -> None:
        table = self.tables[sequence]
        old, new = table[-1], self._take()
        self.key[new], self.value[new] = self.key[old], self.value[old]
        table[-1] = new
        self._give_back(old)

    def _take(self) -> int:
        page = self.free.pop()
        self.users[page] = 1
        return page

    def _give_back(self, page: int) -> None:
        self.users[page] -= 1
        if not self.users[page]:
            # It goes to any place, so that pages are used again soon, and in another order.
            self.free.insert(self._chance.randint(0, len(self.free)), page)


class PagedCache:
    """A cache class over `Pages`, whose subclass has ``attend``."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_len: int,
        head_dim: int,
        value_head_dim: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_heads = num_heads
        self.pages = Pages(
            batch_size=batch_size,
            num_kv_heads=num_kv_heads,
            cache_len=cache_len,
            head_dim=head_dim,
            value_head_dim=value_head_dim,
            page_size=page_size,
            dtype=dtype,
            device=device,
        )

    def attend(self, query: Tensor, query_lens: Tensor) -> Tensor:
        """Attention ``[B, Hq, Q, Dv]`` of the last ``query_lens[b]`` tokens of each sequence, whose
        queries are the first rows of ``query`` ``[B, Hq, Q, D]``; their keys are written."""
        raise NotImplementedError

    def decode(self, query: Tensor, key: Tensor, value: Tensor, query_lens: Tensor) -> Tensor:
        """Write the new tokens, then attend."""
        self.pages.append(key, value, query_lens.tolist())
        return self.attend(query, query_lens)

    def rollback(self, n: Tensor) -> None:
        """Take back the last ``n[b]`` tokens of sequence b."""
        self.pages.rollback(n.tolist())

    def reset(self, sequences: list[int]) -> None:
        """Empty these sequences."""
        self.pages.reset(sequences)

    def release(self, sequences: list[int]) -> None:
        """Give the pages of these sequences back."""
        self.pages.reset(sequences)

    def fork(self, source: int, target: int) -> None:
        """Make ``target`` a copy of ``source``."""
        self.pages.fork(source, target)

    def grow(self, cache_len: int) -> None:
        """Let each sequence have up to ``cache_len`` tokens."""
        self.pages.grow(cache_len)

    def poison(self, value: float) -> None:
        """Fill what holds no token."""
        self.pages.poison(value)

    def contents(self, sequence: int) -> tuple[Tensor, Tensor]:
        """What a sequence holds."""
        return self.pages.contents(sequence)


class GatheredPages(PagedCache):
    """Pages gathered into a cache without gaps, and SDPA over that."""

    def attend(self, query: Tensor, query_lens: Tensor) -> Tensor:
        """SDPA over the gathered pages of each sequence."""
        table = self.pages.block_table.long()
        key, value = (
            pool[table].flatten(1, 2).transpose(1, 2) for pool in (self.pages.key, self.pages.value)
        )
        first = (self.pages.seq_lens - query_lens)[:, None]
        position = first + torch.arange(query.size(2), device=query.device)
        slot = torch.arange(key.size(2), device=query.device)
        allowed = slot < self.end(position)[..., None]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed[:, None], enable_gqa=True
        )

    def end(self, position: Tensor) -> Tensor:
        """The end of the slots that a query at this position attends."""
        return position + 1
