"""Loops for a user's function: small geometries of its domain, and every kind of step."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator

from harness.case import CaseError, DecodeCase
from harness.case.domain import MAX_BATCH, Domain
from harness.case.loop import STEPS, Loop, Step
from harness.case.quantised import QUANTISED_FEATURES
from harness.strategies.drawing import domain_cases

# What a stale cache shows, it shows in few slots; every call of a loop is judged.
_SLOTS = (8, 64)
_STEPS = (6, 12)
# Which kind the loops are, over and over: steps of every word, a long run on the same tensors, and
# a long run on new ones. A process is seldom worth two long runs.
_KINDS = ("steps", "run", "steps", "fresh", "steps", "steps", "steps", "steps")
_LONG = ("run", "fresh")
# Steps that advance, after which most things show, come more often.
_OFTEN = ("next", "next", "next")


def domain_loops(domain: Domain, seed: int, long_run: Callable[[], int]) -> Iterator[Loop]:
    """Loops whose calls are of this domain, the same for the same ``seed`` and ``long_run``.

    Args:
        long_run: how many calls a long run may have now; below 1 there is none.
    """
    if set(QUANTISED_FEATURES) & set(domain.requires):
        return  # No loop writes into a quantised cache.
    chance = random.Random(seed)
    kinds = itertools.cycle(_KINDS)
    for count, case in enumerate(_cases(domain, seed)):
        kind = next(kinds)
        calls = long_run()
        if kind == "steps" or calls < 1:
            yield Loop(case, _steps(domain, case, chance, every=count == 0))
        else:
            yield Loop(case, (Step("next"), Step(kind, (calls,))))


def _cases(domain: Domain, seed: int) -> Iterator[DecodeCase]:
    low, high = domain.cache_len
    fewest, most = _SLOTS
    small = (min(high, max(low, fewest)), max(low, min(high, most)))
    domain = dataclasses.replace(domain, cache_len=small)
    for case in domain_cases(domain, seed):
        if not case.layout_kind.shared and not case.quantised:
            yield case.replace(probe="none", logits="normal")


def _steps(
    domain: Domain, case: DecodeCase, chance: random.Random, *, every: bool
) -> tuple[Step, ...]:
    """Steps of a loop; with ``every``, each kind at least once."""
    short = [word for word in STEPS if word not in _LONG]
    words = chance.choices([*short, *_OFTEN], k=chance.randint(*_STEPS))
    if every:
        words = [*short, *_OFTEN]
        chance.shuffle(words)
    steps = []
    for word in words:
        step = _step(word, case, domain, chance)
        if step is None:
            continue
        # The call after another cache shows what it left behind in the first one's.
        steps += [step, Step("swap")] if word == "other" else [step]
    return tuple(steps)


def _step(word: str, case: DecodeCase, domain: Domain, chance: random.Random) -> Step | None:
    """A step of this kind, or None where its call would be outside the domain."""
    if word == "back":
        return Step(word, (chance.randint(1, 3),))
    if word == "jump":
        moved = case.replace(input_pos=(0,) * case.batch)
        position = chance.randint(0, case.cache_len - case.q_len)
        return None if domain.refuses(moved) else Step(word, (position,))
    if word != "other":
        return Step(word)
    low, high = domain.cache_len
    batch = chance.randint(1, MAX_BATCH)
    slots = chance.randint(max(low, case.q_len), max(low, case.q_len, min(high, 2 * _SLOTS[1])))
    step = Step(word, (batch, slots))
    try:
        return None if domain.refuses(Loop(case, (step,)).other_case(batch, slots)) else step
    except CaseError:
        return None
