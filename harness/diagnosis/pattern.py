"""Where an output is wrong, in words: what is said beside a fault, or where no fault is found."""

from __future__ import annotations

from collections.abc import Iterator

from harness.diagnosis.observation import Observation
from harness.faults import FaultKind


def _listed(what: str, numbers: list[int], count: int) -> str:
    if len(numbers) == count:
        return f"all {what}s" if count > 1 else f"the {what}"
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"{what}{'s' if len(numbers) > 1 else ''} {shown} of {count}"


def pattern(seen: list[Observation], kind: FaultKind) -> Iterator[str]:
    """Sentences about where outputs are wrong: sequences, heads, tokens, places in a block."""
    first, rows = seen[0], seen[0].wrong(kind)
    axes = [
        _listed(what, rows.any(dim).nonzero().flatten().tolist(), size)
        for what, dim, size in zip(
            ("sequence", "head", "query token"), ((1, 2), (0, 2), (0, 1)), rows.shape, strict=True
        )
    ]
    what = "logsumexp" if kind is FaultKind.AUXILIARY else "output"
    yield f"{what} wrong in {', '.join(axes)} of {first.problem.case}"
    size = first.problem.case.block_size[1]
    wrong, right = _positions(seen, kind)
    places = {n % size for n in wrong}
    if len(wrong) > 1 and {n % size for n in right} - places and len(places) <= 2:
        yield f"only at slot {' and '.join(map(str, sorted(places)))} of a block of {size}"


def sightings(seen: list[Observation], kind: FaultKind) -> Iterator[str]:
    """Sentences about the positions and the dtype that were seen to be wrong, where no other ones
    are tried."""
    if wrong := _positions(seen, kind)[0]:
        yield f"first wrong position {min(wrong)}"
        if len({o.problem.case.dtype for o in seen}) == 1:
            yield f"seen in {seen[0].problem.case.dtype}"


def _positions(seen: list[Observation], kind: FaultKind) -> tuple[list[int], list[int]]:
    """The positions of wrong and of right rows, over all heads."""
    wrong: list[int] = []
    right: list[int] = []
    for observation in seen:
        case = observation.problem.case
        for b, position in enumerate(case.input_pos):
            for i in range(case.q_len if position >= 0 else 0):
                off = observation.wrong(kind)[b, :, i].any()
                (wrong if off else right).append(position + i)
    return wrong, right
