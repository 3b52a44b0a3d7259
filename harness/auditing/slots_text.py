"""Which slots each row of a call attends, and where two calls differ, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from torch import Tensor

from harness.auditing.blame import few
from harness.auditing.differing import Difference
from harness.auditing.remedies import remedy_of
from harness.auditing.sighting import Sighting

_WIDTH = 100
# Of heads, sequences and groups of rows that attend different slots, this many are listed.
_MOST = 4


def sighting_lines(call: Sighting) -> Iterator[str]:
    """A call: what it is, which slots its rows attend, and whether it computes that rightly."""
    batch, heads, rows, slots = call.attended.shape
    sizes = [f"{batch} sequences of {rows}" if batch > 1 else f"{rows}"]
    filled = [int(n) for n in call.filled.sum(-1)]
    held = "all filled" if min(filled) == slots else f"{_numbers(filled)} of them filled"
    yield f"call {call.number}  {call.named}{call.where}, {call.dtype}"
    yield (
        f"        {sizes[0]} {_plural(rows, 'query', 'queries')}, {heads} heads, {slots} slots,"
        f" {held}"
    )
    patterns = list(_patterns(call.attended))
    for where, visible in patterns[:_MOST]:
        for line in _attends(visible, call, where):
            yield from _wrapped(line)
    if len(patterns) > _MOST:
        yield f"        and {len(patterns) - _MOST} more patterns of sequences and heads"
    if call.reason:
        yield from _wrapped(f"not judged whether it computes that rightly: {call.reason}")
    elif call.blame is None:
        yield f"        computes that rightly, within {call.used:.2g} of the rounding budget"
    else:
        clauses = "; ".join([call.blame.what, *call.blame.evidence])
        yield from _wrapped(f"WRONG: computes something else: {clauses}")


def difference_lines(found: Difference) -> Iterator[str]:
    """Two calls: in how many slots and which they differ, and by how much their outputs do."""
    first, second = found.first.number, found.second.number
    (a, i), (b, j) = found.rows[0]
    rows, batch = found.first.attended.size(2), found.first.attended.size(0)
    by = f"{found.slots} {_plural(found.slots, 'slot', 'slots')}" if found.slots else ""
    what = f"they differ by {by}" if by else "they attend the same slots"
    yield f"calls {first} and {second}, the same keys and values and the same query: {what}"
    where = [_row(first, a, i, found.first), _row(second, b, j, found.second)]
    if rows > 1 or batch > 1 or found.second.attended.size(2) > 1:
        of = f"{len(found.rows)} of {found.compared} such pairs of rows differ"
        yield f"        {where[0]} and {where[1]}; {of}"
    for number, alone, call in (
        (first, found.first_alone, found.first),
        (second, found.second_alone, found.second),
    ):
        if alone:
            empty = [s for s in alone if s >= call.filled.size(1) or not call.filled[:, s].any()]
            holds = ", which hold zeros" if len(empty) == len(alone) else ""
            yield from _wrapped(f"call {number} alone attends slots {few(list(alone))}{holds}")
    if not found.slots:
        yield from _wrapped(
            f"what they are asked for differs by {found.beyond:.3g} rounding budgets; scales are"
            f" {found.first.scale:.6g} and {found.second.scale:.6g}"
        )
    yield (
        f"        outputs differ by {found.largest:.3g} at most, {100 * found.relative:.3g} % of"
        f" call {first}'s"
    )
    if (low := found.without_offset) is not None:
        rule = remedy_of("no-query-offset")
        yield from _wrapped(
            f"no-query-offset: call {low.number} sees what a query at the position of its row does,"
            " as where the mask lacks the query's position"
        )
        yield from _wrapped(f"remedy: {rule}")


def _row(number: int, b: int, row: int, call: Sighting) -> str:
    sequence = f" of sequence {b}" if call.attended.size(0) > 1 else ""
    return f"row {row}{sequence} of call {number}"


def _patterns(attended: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What sequences and heads attend, bool ``[Q, S]``, each once, with who does."""
    batch, heads = attended.shape[:2]
    groups: list[tuple[Tensor, list[tuple[int, int]]]] = []
    for b in range(1 if attended.stride(0) == 0 else batch):
        for h in range(1 if attended.stride(1) == 0 else heads):
            for visible, members in groups:
                if visible.equal(attended[b, h]):
                    members.append((b, h))
                    break
            else:
                groups.append((attended[b, h], [(b, h)]))
    for visible, members in groups:
        sequences, own = sorted({b for b, _ in members}), sorted({h for _, h in members})
        parts = []
        if batch > 1 and attended.stride(0) and len(sequences) < batch:
            parts.append(f"sequence {few(sequences)}")
        if attended.stride(1) and len(own) < heads:
            parts.append(f"heads {few(own)}")
        yield ", ".join(parts), visible


def _attends(visible: Tensor, call: Sighting, where: str) -> Iterator[str]:
    """Lines of one pattern, the slots of all rows first."""
    slots = visible.any(0).nonzero().flatten().tolist()
    filled = {int(n) for n in call.filled.sum(-1)}
    alone = " alone" if len(slots) == 1 else ""
    of = ""
    if len(filled) == 1 and 0 < len(slots) < (count := filled.pop()):
        of = f", of {count} that are filled"
    prefix = f"{where}: " if where else ""
    name = "slot" if len(slots) == 1 else "slots"
    yield f"{prefix}attends {name} {few(slots)}{alone}{of}" if slots else f"{prefix}attends nothing"
    if visible.size(0) > 1 and slots:
        groups = list(row_groups(visible))
        shown = groups[:_MOST] + (["..."] if len(groups) > _MOST else [])
        yield f"  {'; '.join(shown)}"


def row_groups(visible: Tensor) -> Iterator[str]:
    """Rows ``[Q, S]`` that follow each other and attend the same slots, or ranges that move on by a
    slot with each row: ``rows 0 to 5: slots 0 to r`` (``r`` is the number of the row)."""
    runs = [_runs(row.nonzero().flatten().tolist()) for row in visible]
    start = 0
    while start < len(runs):
        steps = None
        end = start + 1
        while end < len(runs) and (now := _steps(runs[end - 1], runs[end])) is not None:
            if steps is not None and now != steps:
                break
            steps, end = now, end + 1
        rows = f"row {start}" if end == start + 1 else f"rows {start} to {end - 1}"
        yield f"{rows}: {_ranges(runs[start], steps, start)}"
        start = end


def _runs(slots: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1] = runs[-1][0], slot
        else:
            runs.append((slot, slot))
    return runs


def _steps(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> tuple[tuple[int, int], ...] | None:
    """By how much each end of each range moves on, or None where that is not 0 or 1."""
    if len(before) != len(after):
        return None
    steps = tuple((c - a, d - b) for (a, b), (c, d) in zip(before, after, strict=True))
    return steps if all(n in (0, 1) for step in steps for n in step) else None


def _ranges(
    runs: list[tuple[int, int]], steps: tuple[tuple[int, int], ...] | None, row: int
) -> str:
    """Ranges at ``row``, whose ends move on by ``steps`` with each row."""
    if not runs:
        return "none"
    steps = steps or ((0, 0),) * len(runs)

    def end(slot: int, moves: int) -> str:
        return f"r{slot - row:+d}".replace("r+0", "r") if moves else str(slot)

    texts = []
    for (low, high), (a, b) in zip(runs, steps, strict=True):
        low_text, high_text = end(low, a), end(high, b)
        texts.append(low_text if low_text == high_text else f"{low_text} to {high_text}")
    shown = texts if len(texts) <= _MOST else [*texts[:_MOST], "...", texts[-1]]
    return f"slots {', '.join(shown)}"


def _numbers(values: list[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _wrapped(text: str) -> list[str]:
    indent = " " * (8 + len(text) - len(text.lstrip()))
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=" " * 10)
