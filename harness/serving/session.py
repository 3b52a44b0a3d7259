"""Session: one object of a cache class, taken through the steps of a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.case.program import Action, Program
from harness.case.tails import POISON
from harness.paths.path import without_gradients
from harness.serving.contract import QUERY_LENS, Abilities
from harness.serving.rows import Rows

# Gets the numbers of a call's tokens and which of them are padding, ``[B, Q]``, and the query, key
# and value that were drawn, and changes these in place.
Change = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
Around = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class CacheClass:
    """A cache class, what it can do, and the ``junk`` that padding and, where the class can be
    asked to, free slots are filled with: a large number, or NaN for a class that takes it."""

    cls: type
    abilities: Abilities
    junk: float = POISON

    def fill(
        self, tokens: Tensor, padding: Tensor, query: Tensor, key: Tensor, value: Tensor
    ) -> None:
        """Junk in the padding: in queries and values, and in keys where it is NaN, since a large
        number there would only take weight from the rest of the padding."""
        for tensor in (query, key, value) if math.isnan(self.junk) else (query, value):
            tensor.masked_fill_(padding[:, None, :, None], self.junk)


@dataclass(frozen=True)
class Call:
    """One call of ``decode``: the ``number`` of its step, from 1, and the ``action``; the
    ``counts`` of new tokens; the ``slots`` of each sequence; the tensors that it gets; and ``run``,
    which makes it."""

    number: int
    action: Action
    counts: tuple[int, ...]
    slots: int
    tensors: dict[str, Tensor]
    run: Callable[[], Any]


class Session:
    """A cache made for a program, with the model of what it should hold, ``rows``; the ``number``
    of the present step counts from 1. Whatever the cache does is done within ``around()``.

    Numbers are drawn from a generator of the case's seed, call by call: query, key and value of
    every row, padding too. ``change`` then changes them; without it, padding is filled with junk.
    """

    def __init__(
        self,
        cache: CacheClass,
        program: Program,
        device: str,
        change: Change | None = None,
        around: Around = nullcontext,
    ) -> None:
        self.program, self._cache, self.device = program, cache, device
        self._change, self._around = change or cache.fill, around
        self._generator = torch.Generator().manual_seed(program.case.seed)
        self.rows = Rows(program.case.batch)
        self.number = 0
        with around():
            self._object = cache.abilities.make(cache.cls, program, device)

    def anew(self) -> Session:
        """Another session of the same program, from its start."""
        return Session(self._cache, self.program, self.device, self._change, self._around)

    def calls(self) -> Iterator[Call]:
        """Take one step after the other; at each that decodes, hand out its call, which must be
        made before the next one is asked for."""
        steps = zip(self.program.lengths(), self.program.steps, strict=True)
        for self.number, (now, action) in enumerate(steps, 1):
            counted = action.word in ("admit", "decode", "rollback")
            counts = now.counts(action) if counted else ()
            with self._around():
                self._prepare(action, now.tokens, counts)
            self.rows.apply(action, counts)
            if action.word in ("admit", "decode"):
                yield self._call(self.number, action, counts, now.slots)

    def _prepare(
        self, action: Action, tokens: tuple[int | None, ...], counts: tuple[int, ...]
    ) -> None:
        """Ask the cache for what a step does beside its call."""
        numbers, cache = action.numbers, self._object
        match action.word:
            case "admit" if tokens[numbers[0]] != 0:
                cache.reset([numbers[0]])
            case "rollback" if self._cache.abilities.ragged:
                cache.rollback(torch.tensor(counts, device=self.device))
            case "rollback":
                cache.rollback(counts[0])
            case "reset" | "release":
                getattr(cache, action.word)([numbers[0]])
            case "fork":
                cache.fork(*numbers)
            case "grow":
                cache.grow(numbers[0])

    def _call(self, number: int, action: Action, counts: tuple[int, ...], slots: int) -> Call:
        case, width = self.program.case, max(*counts, 1)
        sizes = {
            "query": (case.heads, case.head_dim),
            "key": (case.kv_heads, case.head_dim),
            "value": (case.kv_heads, case.value_dim),
        }
        made = {
            name: torch.randn(case.batch, heads, width, dim, generator=self._generator).to(
                getattr(torch, case.dtype)
            )
            for name, (heads, dim) in sizes.items()
        }
        first = len(self.rows.tokens)
        tokens = torch.arange(first, first + case.batch * width).view(case.batch, width)
        padding = torch.arange(width) >= torch.tensor(counts)[:, None]
        self._change(tokens, padding, *made.values())
        self.rows.append(number, counts, made["key"], made["value"])
        if self._cache.abilities.ragged:
            made[QUERY_LENS] = torch.tensor(counts)
        # Copies, since the model keeps the originals.
        given = {name: tensor.to(self.device, copy=True) for name, tensor in made.items()}

        def run() -> Any:
            lens = {name: given[name] for name in given if name == QUERY_LENS}
            with self._around(), without_gradients():
                if "poison" in self._cache.abilities.methods:
                    self._object.poison(self._cache.junk)
                return self._object.decode(given["query"], given["key"], given["value"], **lens)

        return Call(number, action, counts, slots, given, run)

    def contents(self, sequence: int) -> tuple[Tensor, Tensor] | None:
        """What the cache says that a sequence holds, None where it does not tell."""
        if "contents" not in self._cache.abilities.methods:
            return None
        with self._around():
            return self._object.contents(sequence)
