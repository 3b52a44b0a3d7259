"""Look: one sequence of an attention call beside its reference: what is held, seen and due."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.blame import Blame, Cause, few
from harness.auditing.call import AttentionCall
from harness.auditing.content import NOTHING, cache_rows, nearest
from harness.auditing.reference import Reference


@dataclass(frozen=True)
class Seen:
    """How the visible slots of a row differ from what its token should see: tokens ``missing`` and
    ``extra``, and slots that hold no token of the sequence, ``unknown``."""

    missing: list[int]
    extra: list[int]
    unknown: list[int]


@dataclass(frozen=True)
class Look:
    """One sequence of a call. ``numbers`` int64 ``[Q]`` has the number of each query's token,
    ``NOTHING`` for padding; rows of padding are left out of all that follows.

    ``neighbours`` are references in which the tokens have positions next to their own. A query or
    key that is nearer to one of theirs is not what it should be.
    """

    call: AttentionCall
    numbers: Tensor
    reference: Reference
    sequence: int
    neighbours: tuple[Reference, ...] = ()

    @functools.cached_property
    def rows(self) -> Tensor:
        """The queries that are tokens, int64 ``[R]``, numbers of rows in the call."""
        return (self.numbers != NOTHING).nonzero().flatten()

    @property
    def tokens(self) -> Tensor:
        """The token of each of these rows, int64 ``[R]``."""
        return self.numbers[self.rows]

    @functools.cached_property
    def query_rows(self) -> Tensor:
        """The queries, float64 ``[R, Hq * D]``."""
        return self.call.query[self.sequence][:, self.rows].transpose(0, 1).flatten(1).double()

    @functools.cached_property
    def queries_are(self) -> Tensor:
        """The token whose query each row is in the uncached forward, or ``NOTHING``."""
        own = self.reference.queries(self.call.layer)
        others = [other.queries(self.call.layer) for other in self.neighbours]
        candidates = torch.cat([own, *others]).flatten(1)
        return _known(nearest(self.query_rows, candidates, self.call.query.dtype), len(own))

    @functools.cached_property
    def slot_rows(self) -> Tensor:
        """Key and value in each slot, float64 ``[S, Hkv, D + Dv]``."""
        return cache_rows(self.call.key[self.sequence], self.call.value[self.sequence])

    @functools.cached_property
    def held(self) -> list[int]:
        """The token that each slot holds, or ``NOTHING``; key and value are told apart."""
        others = [self.due(other) for other in self.neighbours]
        return self._tokens_in(self.slot_rows, self.due(self.reference), *others).tolist()

    def due(self, reference: Reference, layer: int | None = None) -> Tensor:
        """``Reference.rows`` for the KV heads of the call; by default of its layer."""
        layer = self.call.layer if layer is None else layer
        return reference.rows(layer, self.call.key.size(1))

    def _tokens_in(self, slots: Tensor, rows: Tensor, *others: Tensor) -> Tensor:
        dims = self.call.key.size(3)
        candidates = torch.cat([rows, *others])
        dtypes = self.call.key.dtype, self.call.value.dtype
        key = nearest(slots[..., :dims].flatten(1), candidates[..., :dims].flatten(1), dtypes[0])
        value = nearest(slots[..., dims:].flatten(1), rows[..., dims:].flatten(1), dtypes[1])
        return torch.where(key == value, _known(key, len(rows)), NOTHING)

    @functools.cached_property
    def visible(self) -> Tensor:
        """The slots that the mask shows each row, to any head, bool ``[R, S]``."""
        return self.call.visible[self.sequence].any(0)[self.rows]

    @functools.cached_property
    def should(self) -> Tensor:
        """The tokens that each row should see, bool ``[R, T]``."""
        return self.reference.visible(self.call.layer)[self.tokens]

    @functools.cached_property
    def right(self) -> Tensor:
        """The rows that see each token that they should once, and nothing else, bool ``[R]``."""
        held = torch.tensor(self.held)
        known = held != NOTHING
        table = torch.zeros(len(held), self.should.size(1), dtype=torch.int64)
        table[known.nonzero().flatten(), held[known]] = 1
        counts = self.visible.long() @ table
        stray = (self.visible & ~known).any(-1)
        return (counts == self.should.long()).all(-1) & ~stray

    def seen(self, row: int) -> Seen:
        """How what a row sees differs from what it should."""
        slots = self.visible[row].nonzero().flatten().tolist()
        tokens = [self.held[s] for s in slots]
        due = self.should[row].nonzero().flatten().tolist()
        return Seen(
            missing=[t for t in due if t not in tokens],
            extra=sorted(
                {t for t in tokens if t != NOTHING and (t not in due or tokens.count(t) > 1)}
            ),
            unknown=[s for s, t in zip(slots, tokens, strict=True) if t == NOTHING],
        )

    def clauses(self, row: int) -> list[str]:
        """What a row sees and what it should, as clauses."""
        seen, due = self.seen(row), self.should[row].nonzero().flatten().tolist()
        slots = self.visible[row].nonzero().flatten().tolist()
        parts = [
            f"token {int(self.tokens[row])} should see tokens {few(due)}",
            f"its mask shows slots {few(slots)}",
        ]
        for what, numbers in (
            ("tokens {} are missing", seen.missing),
            ("tokens {} are too many", seen.extra),
            ("slots {} hold no token of this sequence", seen.unknown),
        ):
            if numbers:
                parts.append(what.format(few(numbers)))
        return parts

    def hold(self, slots: Tensor, candidates: Iterable[Tensor]) -> int | None:
        """The number of the first of ``candidates`` (rows of keys and values, ``[T, Hkv, D + Dv]``)
        that have what each of ``slots`` holds."""
        for number, rows in enumerate(candidates):
            if self._all_in(self.slot_rows[slots], rows):
                return number
        return None

    def hold_any(self, slots: Iterable[int], drafts: Iterable[Reference]) -> bool:
        """Whether each of ``slots`` holds a token of some draft that was rolled back."""
        rows = [self.due(draft) for draft in drafts]
        places = [torch.tensor([slot]) for slot in slots]
        return bool(places) and all(self.hold(place, rows) is not None for place in places)

    def late(self, token: int, seen: Seen) -> bool:
        """Whether a missing token lies in the slot after one that holds none."""
        return any(
            held == token and slot - 1 in seen.unknown for slot, held in enumerate(self.held)
        )

    def head_order(self, slots: Tensor) -> list[int] | None:
        """The KV head of the uncached forward that each KV head of ``slots`` holds, where they hold
        tokens of the sequence, or None."""
        rows, order = self.due(self.reference), []
        for head in range(self.slot_rows.size(1)):
            mine = self.slot_rows[slots][:, head : head + 1]
            others = (rows[:, n : n + 1] for n in range(rows.size(1)))
            found = (n for n, other in enumerate(others) if self._all_in(mine, other))
            if (first := next(found, None)) is None:
                return None
            order.append(first)
        return order

    def _all_in(self, slots: Tensor, rows: Tensor) -> bool:
        return bool((self._tokens_in(slots, rows) != NOTHING).all())

    def blame(self, cause: Cause, name: str, row: int, *evidence: str) -> Blame:
        """A blame for one of the rows."""
        return Blame(
            cause,
            name,
            evidence,
            self.call.layer,
            self.sequence,
            int(self.tokens[row]),
            int(self.rows[row]),
        )


def _known(index: Tensor, count: int) -> Tensor:
    return torch.where(index < count, index, NOTHING)
