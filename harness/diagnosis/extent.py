"""Extent: for which numbers (positions, slots, dims, scores) an output is wrong, found by trying.

One number of a case at a time is varied, and the numbers that came out wrong are told from those
that came out right: from one on, up to one, or in a residue class. Nothing is said that a number
which was tried contradicts, and nothing where all that were tried are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from harness.case import CaseError, DecodeCase
from harness.diagnosis.observation import BIG, Observation, Observer, equal
from harness.faults import FaultKind

_STEPS = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024)
_MOST = 2050  # positions and slots
# Beside each multiple of a step its neighbours; more than so many multiples of one are not tried.
_MULTIPLES = 3
_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 129, 160, 192, 256)
_SCALES = tuple(2.0**k for k in range(-8, 5))
_SHOWN = 8  # value dims that follow no rule
_LEAST = 3  # of numbers on either side, for a residue class

Wrong = Callable[[int], bool | None]


def extents(observer: Observer, seen: Observation, kind: FaultKind) -> Iterator[str]:
    """Sentences on the dims of a wrong output, and on the positions, slots, head dims, scores and
    dtypes with which it is wrong. Eager cases alone, since each of others would be compiled."""
    case = seen.problem.case
    if kind is FaultKind.OUTPUT and (dims := _dims(seen)):
        yield f"wrong in value dims {dims}"
    if case.mode != "eager":
        return
    runs = _Runs(observer, case, kind)
    newest = max(case.input_pos, default=0)

    def at(position: int) -> bool | None:
        moved = tuple(position if p >= 0 else p for p in case.input_pos)
        # As many slots behind it as there are, since the fault may need them.
        return runs.wrong(input_pos=moved, cache_len=case.cache_len + max(position - newest, 0))

    if found := _numbers(at, newest, 0, max(case.cache_len - case.q_len, _MOST), _around()):
        yield f"wrong at positions {found}"
    if found := _numbers(
        lambda slots: runs.wrong(cache_len=slots),
        case.cache_len,
        newest + case.q_len,
        _MOST,
        _around(),
    ):
        yield f"wrong at cache lengths {found}"

    def with_dims(dims: int) -> bool | None:
        alone = runs.wrong(head_dim=dims, value_dim=case.value_dim)
        return runs.wrong(head_dim=dims, value_dim=dims) if alone is None else alone

    if found := _numbers(with_dims, case.head_dim, 1, max(_SIZES), _SIZES):
        yield f"wrong with head dims {found}"
    yield from runs.scores()
    yield from runs.dtypes()


class _Runs:
    """The case with one field changed, on the observed path."""

    def __init__(self, observer: Observer, case: DecodeCase, kind: FaultKind) -> None:
        self._observer, self._case, self._kind = observer, case, kind

    def _seen(self, **changes: object) -> Observation | None:
        # A needle lies in one slot, which may be another's there.
        try:
            case = self._case.replace(**{"probe": "none", **changes})
        except CaseError:
            return None
        if case.batch * case.kv_heads * case.cache_len * case.head_dim > BIG:
            return None
        return next(iter(self._observer.case(case)), None)

    def wrong(self, **changes: object) -> bool | None:
        """Whether the changed case is wrong; None where that cannot be said."""
        seen = self._seen(**changes)
        return None if seen is None else bool(seen.wrong(self._kind).any())

    def scores(self) -> Iterator[str]:
        """A sentence where it is wrong above some score alone, or below."""
        highest: dict[bool, list[float]] = {True: [], False: []}
        for factor in _SCALES:
            seen = self._seen(scale=self._case.softmax_scale * factor)
            if seen is not None:
                top = float(seen.problem.golden.highest.amax())
                highest[bool(seen.wrong(self._kind).any())].append(top)
        wrong, right = highest[True], highest[False]
        if wrong and right and min(wrong) > max(right):
            yield f"wrong where the highest score is {min(wrong):.3g}, right up to {max(right):.3g}"
        elif wrong and right and max(wrong) < min(right):
            yield f"wrong where the highest score is {max(wrong):.3g}, right from {min(right):.3g}"

    def dtypes(self) -> Iterator[str]:
        """A sentence where it is wrong in some dtypes alone."""
        found = {d: self.wrong(dtype=d) for d in ("float32", "bfloat16", "float16")}
        wrong = [d for d, off in found.items() if off]
        right = [d for d, off in found.items() if off is False]
        if wrong and right:
            yield f"wrong in {' and '.join(wrong)}, right in {' and '.join(right)}"


def _around() -> list[int]:
    multiples = [step * k for step in _STEPS for k in range(1, _MULTIPLES + 1)]
    return sorted({0, 1, 2, 3, *(n + d for n in multiples for d in (-1, 0, 1))})


def _dims(seen: Observation) -> str:
    gold, bound = seen.problem.golden.output, seen.bound.output
    off = ~equal(seen.result.output, gold, bound)
    dims = off[seen.wrong(FaultKind.OUTPUT)].any(0)
    wrong, right = (set(x.nonzero().flatten().tolist()) for x in (dims, ~dims))
    if not right:
        return ""
    return numbers_in_words(wrong, right) or ", ".join(map(str, sorted(wrong)[:_SHOWN]))


def _numbers(wrong: Wrong, known: int, least: int, most: int, tried: Iterable[int]) -> str:
    """For which numbers from ``least`` to ``most`` it is wrong, as ``known`` is; "" where that is
    all of them, or where it follows no rule."""
    found: dict[int, bool] = {}

    def run(number: int) -> bool | None:
        if number not in found and least <= number <= most:
            result = wrong(number)
            if result is not None:
                found[number] = result
        return found.get(number)

    for number in (known, most, least, *tried):
        run(number)
    if not found.get(known):
        return ""
    for inside, outside in _edges(*_sides(found)):
        _narrowed(run, inside, outside)
    return numbers_in_words(*_sides(found))


def _narrowed(run: Wrong, inside: int, outside: int) -> None:
    """Try the numbers between a wrong and a right one until they are neighbours."""
    while abs(inside - outside) > 1:
        middle = (inside + outside) // 2
        result = run(middle)
        if result is None:
            return
        inside, outside = (middle, outside) if result else (inside, middle)


def _sides(found: dict[int, bool]) -> tuple[set[int], set[int]]:
    wrong = {n for n, off in found.items() if off}
    return wrong, set(found) - wrong


def _edges(wrong: set[int], right: set[int]) -> Iterator[tuple[int, int]]:
    """Where wrong numbers are an interval, each end of it that was seen: the last wrong number and
    the next right one."""
    low, high = min(wrong), max(wrong)
    if any(low < n < high for n in right):
        return
    below, above = [n for n in right if n < low], [n for n in right if n > high]
    if below:
        yield low, max(below)
    if above:
        yield high, min(above)


def numbers_in_words(wrong: set[int], right: set[int]) -> str:
    """A rule that holds of each number of ``wrong`` and of none of ``right``, as words: ``from 1024
    on``, ``that are multiples of 96``, ``7 over a multiple of 8``; "" where there is none, or no
    need."""
    if not wrong or not right:
        return ""
    return _interval(wrong, right) if any(_edges(wrong, right)) else _residue(wrong, right)


def _interval(wrong: set[int], right: set[int]) -> str:
    low, high = min(wrong), max(wrong)
    if len(wrong) == 1:
        return f"{low} alone"
    if min(right) > high:
        return f"up to {high}"
    return f"from {low} on" if max(right) < low else f"from {low} to {high}"


def _residue(wrong: set[int], right: set[int]) -> str:
    low, high = min(wrong), max(wrong)
    if min(len(wrong), len(right)) < _LEAST:
        return ""
    for step in range(2, high - low + 1):
        rest = low % step
        if all(n % step == rest for n in wrong) and all(n % step != rest for n in right):
            return f"{rest} over a multiple of {step}" if rest else f"that are multiples of {step}"
    return ""
