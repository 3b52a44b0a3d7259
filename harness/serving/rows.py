"""What a cache should hold: a plain list of tokens for each sequence, with their keys and values.

This is the model that a cache class is judged by. It knows nothing of slots, pages or positions: a
sequence is the list of its tokens, and a token's position is its index.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.case import DecodeCase
from harness.case.program import Action
from harness.inputs import Inputs

# What tells the fate of a token.
PADDING = "padding"
TAKEN_BACK = "took back"


@dataclass
class Token:
    """One new token of a decode call, or one row of padding: of ``sequence``, given in ``step``
    from 1. ``fate`` says why no sequence holds it, while none does."""

    sequence: int
    step: int
    key: Tensor  # [Hkv, D]
    value: Tensor  # [Hkv, Dv]
    fate: str = ""
    position: int = 0


@dataclass
class Rows:
    """The tokens of each sequence. ``tokens`` are all that were ever given, in their order."""

    batch: int
    held: list[list[Token]] = field(init=False)
    tokens: list[Token] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held = [[] for _ in range(self.batch)]

    def append(self, step: int, counts: tuple[int, ...], key: Tensor, value: Tensor) -> None:
        """Take the new tokens of a call, ``key`` ``[B, Hkv, Q, D]`` and ``value``; those from
        ``counts[b]`` on are padding."""
        for b, count in enumerate(counts):
            for i in range(key.size(2)):
                token = Token(b, step, key[b, :, i], value[b, :, i])
                self.tokens.append(token)
                if i < count:
                    token.position = len(self.held[b])
                    self.held[b].append(token)
                else:
                    token.fate = f"{PADDING} behind the {count} new tokens of sequence {b}"

    def apply(self, action: Action, counts: tuple[int, ...]) -> None:
        """Do what a step asks before its call, if it has one; ``counts`` are those of a
        rollback."""
        numbers = action.numbers
        match action.word:
            case "rollback":
                for b, count in enumerate(counts):
                    kept = len(self.held[b]) - count
                    self._drop(b, kept, f", which sequence {b} {TAKEN_BACK}")
            case "admit" | "reset":
                self._drop(numbers[0], 0, f" of what sequence {numbers[0]} held before")
            case "release":
                self._drop(numbers[0], 0, f" of sequence {numbers[0]}, which was released")
            case "fork":
                source, target = numbers
                self._drop(target, 0, f" of what sequence {target} held before")
                self.held[target] = list(self.held[source])

    def _drop(self, sequence: int, kept: int, why: str) -> None:
        dropped = self.held[sequence][kept:]
        del self.held[sequence][kept:]
        still = {id(token) for tokens in self.held for token in tokens}
        for token in dropped:
            if id(token) not in still:
                token.fate = why

    def inputs(self, case: DecodeCase, sequence: int, slots: int, query: Tensor) -> Inputs:
        """A decode call of one sequence alone, whose last rows are ``query`` ``[Hq, n, D]``, over
        what it holds, on the CPU."""
        held = self.held[sequence]
        count = query.size(1)
        alone = case.replace(
            input_pos=(len(held) - count,), q_len=count, cache_len=slots, tail="zeros"
        )
        key = torch.zeros(1, case.kv_heads, slots, case.head_dim, dtype=query.dtype)
        value = torch.zeros(1, case.kv_heads, slots, case.value_dim, dtype=query.dtype)
        keys, values = self.contents(sequence)
        key[0, :, : len(held)], value[0, :, : len(held)] = keys, values
        positions = torch.tensor(alone.input_pos)
        return Inputs(alone, query[None], key, value, positions, {})

    def contents(self, sequence: int) -> tuple[Tensor, Tensor]:
        """The keys ``[Hkv, n, D]`` and values ``[Hkv, n, Dv]`` of a sequence that holds any."""
        held = self.held[sequence]
        keys = torch.stack([token.key for token in held], dim=1)
        return keys, torch.stack([token.value for token in held], dim=1)
