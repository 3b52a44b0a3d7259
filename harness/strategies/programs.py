"""Programs for a cache class, drawn and shrunk by Hypothesis' state machine.

The machine knows how many tokens each sequence holds, and nothing else: which steps are possible
depends on that and on the methods that the class has. The program is run when it is complete, in a
process of its own if need be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.program import Action, Lengths, Program
from harness.serving.contract import Abilities
from harness.strategies.constants import without_constants_of_modules

_STEPS = 12
_BATCH = 4
_SLOTS = 300
# Where blocks, splits and pages of a kernel may end.
_EDGES = (8, 16, 32, 64, 128, 256)
_PAGES = (1, 2, 3, 4, 8, 16, 32, 64, 128)
_FEW = 4


def search_programs(
    run: Callable[[Program], None],
    abilities: Abilities,
    domain: Domain,
    *,
    programs: int,
    chosen: int = 0,
    geometry: Program | None = None,
) -> None:
    """Draw ``programs`` for a class, all of one ``geometry`` if there is one, and give each of them
    to ``run``. What that raises is raised again for the smallest program that Hypothesis finds.

    Args:
        chosen: the seed.

    Raises:
        Exception: what ``run`` raised.
    """

    with without_constants_of_modules():
        run_state_machine_as_test(
            seed(chosen)(machine(run, abilities, domain, geometry)),
            settings=settings(
                max_examples=programs,
                stateful_step_count=_STEPS,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
            ),
        )


def machine(
    run: Callable[[Program], None],
    abilities: Abilities,
    domain: Domain,
    geometry: Program | None = None,
) -> type[RuleBasedStateMachine]:
    """A state machine that gives each program it draws to ``run``; the rest is as for
    ``search_programs``."""

    class CacheMachine(_Machine):
        pass

    CacheMachine.abilities, CacheMachine.domain = abilities, domain
    CacheMachine.geometry, CacheMachine.give = geometry, staticmethod(run)
    return CacheMachine


@st.composite
def _geometries(draw: st.DrawFn, abilities: Abilities, domain: Domain) -> Program:
    low, high = domain.cache_len
    high = max(low, min(high, _SLOTS))
    edges = [n + d for n in _EDGES for d in (0, 1, -1) if low <= n + d <= high]
    few = st.integers(low, min(high, max(low, 12)))
    slots = draw(st.one_of(few, *([st.sampled_from(edges)] if edges else [])))
    kv_heads = draw(st.integers(1, 2))
    head_dim = draw(st.sampled_from(domain.head_dims))
    changes: dict[str, Any] = {}
    for feature in domain.features:
        wanted = feature in domain.requires or draw(st.booleans())
        if not wanted:
            continue
        match feature:
            case "gqa":
                changes["heads"] = kv_heads * draw(st.sampled_from((2, 3, 4)))
            case "value_dim":
                others = [n for n in (16, 8, 32) if n != head_dim]
                changes["value_dim"] = draw(st.sampled_from(others))
            case "window":
                changes["mask"] = f"window:{draw(st.integers(1, slots))}"
            case "softcap":
                changes["score"] = f"softcap:{draw(st.sampled_from((1, 5, 20, 50)))}"
            case "scale":
                changes["scale"] = draw(st.sampled_from((1.0, 0.5)))
    case = DecodeCase(
        cache_len=slots,
        input_pos=(0,) * draw(st.integers(1, _BATCH)),
        head_dim=head_dim,
        dtype=draw(st.sampled_from(domain.dtypes)),
        **{"heads": kv_heads, "kv_heads": kv_heads, **changes},
    )
    page = draw(st.sampled_from(_PAGES)) if abilities.pages else None
    return Program(case, (), page)


class _Machine(RuleBasedStateMachine):
    """One program: each rule appends a step or two, and the end of the run gives it away."""

    abilities: Abilities
    domain: Domain
    geometry: Program | None
    give: Callable[[Program], None]

    def __init__(self) -> None:
        super().__init__()
        self.program: Program | None = None
        self.now = Lengths((), 0)

    @initialize(data=st.data())
    def made(self, data: st.DataObject) -> None:
        self.program = self.geometry or data.draw(_geometries(self.abilities, self.domain))
        self.now = self.program.end

    def teardown(self) -> None:
        # Where Hypothesis gives a run up half-way, it would not see that the program fails.
        given_up = sys.exc_info()[0] is not None
        if self.program is not None and self.program.calls and not given_up:
            type(self).give(self.program)

    def can(self, *words: str) -> bool:
        return set(words) <= {*self.abilities.actions}

    def take(self, word: str, *arguments: int | tuple[int, ...]) -> None:
        action = Action(word, arguments)
        assert self.program is not None
        self.now = self.now.after(action)
        self.program = self.program.replace(steps=(*self.program.steps, action))

    @property
    def live(self) -> list[int]:
        return [b for b, held in enumerate(self.now.tokens) if held is not None]

    @property
    def room(self) -> list[int]:
        """How many tokens each sequence may get, 0 where it is idle."""
        return [0 if held is None else self.now.slots - held for held in self.now.tokens]

    @property
    def apart(self) -> bool:
        """Whether sequences may have different numbers of tokens."""
        return self.abilities.ragged or len(self.now.tokens) == 1

    @property
    def admissible(self) -> list[int]:
        if not self.apart:
            return []
        return [b for b, held in enumerate(self.now.tokens) if held == 0 or self.can("reset")]

    def count(self, data: st.DataObject, most: int, held: int = 0) -> int:
        """A number of tokens, few, or up to an edge, a page's end or the last slot."""
        assert self.program is not None
        edges = (*_EDGES, self.program.page_size or 1, self.now.slots)
        reach = sorted({n + d - held for n in edges for d in (-1, 0, 1)} & {*range(1, most + 1)})
        few = st.integers(1, min(most, _FEW))
        return data.draw(st.one_of(few, *([st.sampled_from(reach)] if reach else [])))

    def counts(self, data: st.DataObject, most: list[int]) -> tuple[int, ...]:
        """A number for each sequence, up to ``most``; the same for all where they go together."""
        if not self.abilities.ragged:
            return (self.count(data, min(most)),) * len(most)
        return tuple(data.draw(st.integers(0, min(n, _FEW))) if n else 0 for n in most)

    @precondition(lambda self: self.admissible)
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        b = data.draw(st.sampled_from(self.admissible))
        self.take("admit", b, self.count(data, self.now.slots))

    @precondition(lambda self: self.possible(1))
    @rule()
    def decode(self) -> None:
        counts = tuple(min(1, n) for n in self.room)
        self.take("decode", counts[:1] if len(set(counts)) == 1 else counts)

    @precondition(lambda self: self.possible(1))
    @rule(data=st.data())
    def decode_several(self, data: st.DataObject) -> None:
        self.take("decode", self.short(self.counts(data, self.room)))

    @precondition(lambda self: self.possible(1) and self.can("rollback"))
    @rule(data=st.data())
    def speculate(self, data: st.DataObject) -> None:
        counts = self.counts(data, self.room)
        self.take("decode", self.short(counts))
        if max(counts):
            back = self.counts(data, list(counts))
            self.take("rollback", self.short(back))

    @precondition(lambda self: self.can("rollback") and self.held)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        self.take("rollback", self.short(self.counts(data, [n or 0 for n in self.now.tokens])))

    @precondition(lambda self: self.can("reset") and self.live and self.apart)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        self.take("reset", data.draw(st.sampled_from(self.live)))

    @precondition(lambda self: self.can("release") and self.live and self.apart)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.take("release", data.draw(st.sampled_from(self.live)))

    @precondition(lambda self: self.can("fork") and self.live and len(self.now.tokens) > 1)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(self.live))
        others = [b for b in range(len(self.now.tokens)) if b != source]
        self.take("fork", source, data.draw(st.sampled_from(others)))

    @precondition(lambda self: self.can("grow") and self.now.slots < _SLOTS)
    @rule(more=st.sampled_from((1, 2, 8, 16, 128)))
    def grow(self, more: int) -> None:
        self.take("grow", self.now.slots + more)

    @precondition(lambda self: self.abilities.ragged)
    @rule()
    def run_idle(self) -> None:
        self.take("decode", (0,))

    @precondition(lambda self: not self.abilities.ragged)
    @rule()
    def rest(self) -> None:
        """Nothing, since a machine needs a rule that is always possible."""

    def possible(self, least: int) -> bool:
        """Whether a decode call may bring so many tokens: to all, or to any where they differ."""
        return (max if self.abilities.ragged else min)(self.room) >= least

    @property
    def held(self) -> bool:
        tokens = [n or 0 for n in self.now.tokens]
        return (max if self.abilities.ragged else min)(tokens) >= 1

    def short(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """One number where it says the same of all that are live."""
        same = {counts[b] for b in self.live}
        return (same.pop(),) if len(same) == 1 else counts
