"""Scenario: how a model is made to decode: prompts, chunks, single tokens, drafts rolled back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.content import NOTHING

PADDINGS = ("none", "left", "right")


@dataclass(frozen=True)
class Scenario:
    """``prompts`` are the lengths of each sequence's prompt, which enter in one forward, padded to
    the longest on the side that ``padding`` says. ``steps`` follow: a positive n feeds n tokens of
    each sequence in one forward, a negative one rolls the last n back. The cache has ``slots``.

    Raises:
        ValueError: where prompts differ without padding, more is rolled back than was fed since the
            prompt, or the cache is too small.
    """

    name: str
    slots: int
    prompts: tuple[int, ...]
    steps: tuple[int, ...]
    padding: str = "none"

    def __post_init__(self) -> None:
        if self.padding not in PADDINGS:
            raise ValueError(f"padding: {self.padding!r} is not one of {' '.join(PADDINGS)}")
        if self.padding == "none" and len(set(self.prompts)) > 1:
            raise ValueError("prompts: of different lengths they need padding")
        fed, most = 0, 0
        for step in self.steps:
            fed += step
            most = max(most, fed)
            if fed < 0:
                raise ValueError("steps: more is rolled back than was fed since the prompt")
        if max(self.prompts) + most > self.slots:
            raise ValueError(f"slots: {self.slots} are too few for the prompt and steps")


@dataclass(frozen=True)
class Forward:
    """One forward, or with ``rollback`` above 0 none but a rollback of so many tokens.

    ``ids`` int64 ``[B, n]`` are the tokens that enter, 0 for padding, ``numbers`` ``[B, n]`` their
    numbers in the sequences, ``NOTHING`` for padding. ``epoch`` counts the rollbacks before it.
    """

    ids: Tensor
    numbers: Tensor
    epoch: int
    rollback: int = 0


@dataclass(frozen=True)
class Plan:
    """A scenario with its tokens: the forwards, and ``histories[epoch][sequence]``, the tokens
    ``[T]`` of a sequence just before they are rolled back (of the last epoch: at the end)."""

    forwards: tuple[Forward, ...]
    histories: tuple[tuple[Tensor, ...], ...]


def planned(scenario: Scenario, vocabulary: int, seed: int = 0) -> Plan:
    """The plan of a scenario with tokens drawn from ``seed`` in 1 to ``vocabulary`` - 1, each once,
    so that no two slots of any sequence should hold the same.

    Raises:
        ValueError: where the vocabulary is too small for that.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(scenario.prompts), max(scenario.prompts)
    fresh = (1 + torch.randperm(vocabulary - 1, generator=generator)).tolist()
    needed = sum(scenario.prompts) + batch * sum(step for step in scenario.steps if step > 0)
    if needed > len(fresh):
        raise ValueError(f"vocabulary: {vocabulary} has too few tokens; allowed is over {needed}")
    sequences: list[list[int]] = [[] for _ in range(batch)]

    def fed(counts: tuple[int, ...], width: int, left: bool) -> tuple[Tensor, Tensor]:
        ids = torch.zeros(batch, width, dtype=torch.int64)
        numbers = torch.full((batch, width), NOTHING)
        for b, count in enumerate(counts):
            at = slice(width - count, width) if left else slice(0, count)
            start = len(sequences[b])
            sequences[b] += [fresh.pop() for _ in range(count)]
            ids[b, at] = torch.tensor(sequences[b][start:])
            numbers[b, at] = torch.arange(start, start + count)
        return ids, numbers

    epoch = 0
    histories: list[tuple[Tensor, ...]] = []
    forwards = [Forward(*fed(scenario.prompts, longest, scenario.padding == "left"), epoch)]

    def snapshot() -> None:
        histories.append(tuple(torch.tensor(tokens) for tokens in sequences))

    for step in scenario.steps:
        if step > 0:
            forwards.append(Forward(*fed((step,) * batch, step, False), epoch))
            continue
        snapshot()
        epoch += 1
        for tokens in sequences:
            del tokens[step:]
        nothing = torch.zeros(batch, 0, dtype=torch.int64)
        forwards.append(Forward(nothing, nothing, epoch, -step))
    snapshot()
    return Plan(tuple(forwards), tuple(histories))


# Prompts and steps cross the edges of blocks of 16 and of a window of 8; "to the last slot" fills a
# cache of a size that no block divides.
SCENARIOS = (
    Scenario("tokens", 40, (12,), (1,) * 8),
    Scenario("chunks", 40, (5,), (1, 4, 1, 7, 3, 1)),
    Scenario("drafts", 48, (10,), (1, 4, -3, 1, 1, 5, -5, 2, 1)),
    Scenario("batch", 40, (9, 9, 9), (1,) * 5),
    Scenario("batch-chunks", 40, (9, 9, 9), (1, 3, 1, -2, 2, 1)),
    Scenario("left-padding", 40, (4, 11, 7), (1,) * 5 + (2, 1), "left"),
    Scenario("right-padding", 40, (4, 11, 7), (1,) * 4, "right"),
    Scenario("last-slot", 37, (30,), (1,) * 7),
    Scenario("blocks", 300, (120,), (1,) * 12),
    Scenario("two-blocks", 300, (120,), (1, 131, 1, 1, 1, 1, 1)),
)
