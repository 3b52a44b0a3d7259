"""Smaller calls: fewer of them, then a smaller geometry, then simpler steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeVar

from harness.case import CaseError, DecodeCase
from harness.case.loop import Loop, Step
from harness.function.calls import Calls
from harness.function.shrink import lowered, shrink
from harness.inputs import LoopInputs

# What may stand in another step's place, the simplest first.
_SIMPLER = ("again", "next")
_MANY = 32
# Whether smaller calls still fail, or None to end the search.
Still = Callable[[Calls], bool | None]
T = TypeVar("T")


def changed(item: Calls, **changes: object) -> Calls:
    """The item with its loop, or those before it, changed."""
    return dataclasses.replace(item, **changes)  # type: ignore[arg-type]


def replaced(item: Calls, place: int, loop: Loop) -> Calls:
    """The item with another loop in one place, -1 for the last one."""
    loops = [*item.before, item.loop]
    loops[place] = loop
    return dataclasses.replace(item, before=tuple(loops[:-1]), loop=loops[-1])


def cut(loop: Loop, number: int) -> Loop:
    """The first ``number`` calls of a loop."""
    steps: list[Step] = []
    left = number - 1
    for step in loop.steps:
        if left <= 0:
            break
        steps.append(step if step.calls <= left else Step(step.word, (left,)))
        left -= step.calls
    return loop.replace(steps=tuple(steps))


def last_case(loop: Loop) -> DecodeCase:
    """The case of a loop's last call, with positions as they then are."""
    tensors = LoopInputs(loop)
    for _ in tensors.stages():
        pass
    return tensors.inputs.case


def smaller_calls(best: Callable[[], Calls], still: Still) -> None:
    """Try ever smaller calls; ``best`` gives the smallest for which ``still`` said True."""
    for reduce in (_one_run, _fewer_calls, _smaller_geometry, _simpler_steps, _fewer_calls):
        reduce(best, still)


def _without(things: tuple[object, ...]) -> Iterable[slice]:
    """Slices to leave out, the longest first."""
    size = len(things)
    while size:
        yield from (slice(i, i + size) for i in range(0, len(things), size))
        size //= 2


def _one_run(best: Callable[[], Calls], still: Still) -> None:
    """Where it takes many calls, so that leaving some out would always help, a run of as many."""
    loop = best().loop
    if len(loop.steps) > 1 and loop.calls > _MANY:
        still(changed(best(), loop=loop.replace(steps=(Step("run", (loop.calls - 1,)),))))


def _fewer_calls(best: Callable[[], Calls], still: Still) -> None:
    """Leave out loops before the last one, then steps of each."""
    _fewer(lambda: best().before, lambda kept: changed(best(), before=kept), still)
    for place in range(-1, -len(best().before) - 2, -1):

        def steps(place: int = place) -> tuple[Step, ...]:
            return (*best().before, best().loop)[place].steps

        def keeping(kept: tuple[Step, ...], place: int = place) -> Calls:
            loop = (*best().before, best().loop)[place]
            return replaced(best(), place, loop.replace(steps=kept))

        _fewer(steps, keeping, still)


def _fewer(
    things: Callable[[], tuple[T, ...]], keeping: Callable[[tuple[T, ...]], Calls], still: Still
) -> None:
    held: bool | None = True
    while held:
        held = False
        now = things()
        for gone in _without(now):
            smaller = keeping((*now[: gone.start], *now[gone.stop :]))
            if not (smaller.before or smaller.loop.steps):
                continue
            held = still(smaller)
            if held is None:
                return
            if held:
                break


def _smaller_geometry(best: Callable[[], Calls], still: Still) -> None:
    for place in range(-len(best().before) - 1, 0):

        def on(case: DecodeCase, place: int = place) -> bool | None:
            loop = (*best().before, best().loop)[place]
            try:
                return still(replaced(best(), place, loop.replace(case=case)))
            except CaseError:
                return False

        shrink((*best().before, best().loop)[place].case, on)


def _simpler_steps(best: Callable[[], Calls], still: Still) -> None:
    for index in range(len(best().loop.steps)):
        for step in _simpler(best().loop.steps[index]):
            item = best()
            steps = (*item.loop.steps[:index], step, *item.loop.steps[index + 1 :])
            held = still(changed(item, loop=item.loop.replace(steps=steps)))
            if held is None:
                return
            if held:
                break


def _simpler(step: Step) -> Iterable[Step]:
    for word in _SIMPLER:
        if word == step.word:
            return
        yield Step(word)
    for place, (number, kind) in enumerate(zip(step.arguments, step.kind.types, strict=True)):
        for lower in lowered(number, kind.low):
            yield Step(step.word, (*step.arguments[:place], lower, *step.arguments[place + 1 :]))
