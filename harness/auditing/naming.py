"""Names for what is wrong with the slots that a query sees: claims, tried one after the other.

A name is given where all of what is off fits, and none otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.auditing.blame import few
from harness.auditing.content import NOTHING
from harness.auditing.look import Look, Seen
from harness.auditing.reference import Reference

SHIFTS = (1, -1, 2, -2, 3, -3)
ROTARY = "rotary-off-by-one"


@dataclass(frozen=True)
class Sight:
    """What a row of a look sees, and what else its slots may hold: the references of the ``others``
    in the batch by number, of ``drafts`` that were rolled back, and of the sequence ``shifted`` by
    some positions."""

    look: Look
    row: int
    others: dict[int, Reference]
    drafts: tuple[Reference, ...]
    shifted: Callable[[int], Reference]

    @property
    def seen(self) -> Seen:
        """How what the row sees differs from what it should."""
        return self.look.seen(self.row)

    @property
    def stray(self) -> torch.Tensor:
        """The visible slots that hold no token of the sequence, int64."""
        return torch.tensor(self.seen.unknown, dtype=torch.int64)

    @property
    def beyond(self) -> list[int]:
        """Those of them that come after every slot that holds one."""
        newest = max((s for s, t in enumerate(self.look.held) if t != NOTHING), default=-1)
        return [s for s in self.seen.unknown if s > newest]


# A name and further evidence, "" for none, or None where the claim does not fit.
Claim = tuple[str, str] | None


def no_query_offset(sight: Sight) -> Claim:
    """The mask takes the query's number in the call for its position."""
    look, row = sight.look, sight.row
    known = torch.tensor(look.held) != NOTHING
    # Padding, which a mask may hide as well, holds no token.
    top_left = known & (torch.arange(len(known)) <= int(look.rows[row]))
    fits = sight.seen.missing and torch.equal(look.visible[row], top_left)
    return ("no-query-offset", "") if fits else None


def padding(sight: Sight) -> Claim:
    """The mask shows slots of padding, which are never after the newest token."""
    seen = sight.seen
    fits = not seen.missing and seen.unknown and not sight.beyond
    return ("padding-attended", "") if fits else None


def rolled_back(sight: Sight) -> Claim:
    """The mask shows slots after the newest token, in which a draft lies that was rolled back."""
    seen, beyond = sight.seen, sight.beyond
    fits = not seen.missing and beyond and sight.look.hold_any(beyond, sight.drafts)
    what = f"slots {few(beyond)} hold tokens that were rolled back"
    return ("rolled-back-attended", what) if fits else None


def ahead(sight: Sight) -> Claim:
    """The mask shows slots after the newest token, or tokens after the query's own."""
    seen, beyond = sight.seen, sight.beyond
    own = int(sight.look.tokens[sight.row])
    later = [t for t in seen.extra if t > own]
    if seen.missing or beyond != seen.unknown or later != seen.extra or not beyond + later:
        return None
    count = len(beyond + later)
    name = "offset-one-high" if count == 1 else "offset-high"
    return name, f"the mask is {count} ahead of the query's position"


def wide(sight: Sight) -> Claim:
    """The mask shows tokens before the oldest that the query should see."""
    seen, due = sight.seen, sight.look.should[sight.row].nonzero().flatten().tolist()
    fits = seen.extra and not seen.missing and not seen.unknown and max(seen.extra) < min(due)
    name = "window-one-wide" if len(seen.extra) == 1 else "window-wide"
    return (name, "") if fits else None


def behind(sight: Sight) -> Claim:
    """The mask hides the query's own token, and nothing else is off."""
    seen, own = sight.seen, int(sight.look.tokens[sight.row])
    fits = not seen.extra and not seen.unknown and seen.missing == [own]
    return ("offset-one-low", "") if fits else None


def never_written(sight: Sight) -> Claim:
    """The stray slots hold zeros, as a new cache does."""
    late = bool(sight.seen.missing) and all(
        sight.look.late(token, sight.seen) for token in sight.seen.missing
    )
    if sight.look.slot_rows[sight.stray].any():
        return None
    if late:
        return "one-slot-late", "each missing token is one slot after one that was never written"
    return "", f"slots {few(sight.seen.unknown)} were never written"


def other_sequence(sight: Sight) -> Claim:
    """The stray slots hold another sequence of the batch."""
    at = sight.look.hold(sight.stray, [sight.look.due(r) for r in sight.others.values()])
    if at is None:
        return None
    which = list(sight.others)[at]
    what = f"slots {few(sight.seen.unknown)} hold keys and values of sequence {which}"
    return "other-sequence", what


def other_layer(sight: Sight) -> Claim:
    """The stray slots hold the sequence's tokens, but those of another layer."""
    look = sight.look
    layers = [n for n in range(len(look.reference.calls)) if n != look.call.layer]
    rows = {n: look.due(look.reference, n) for n in layers}
    same = {n: r for n, r in rows.items() if r.shape[1:] == look.slot_rows.shape[1:]}
    at = look.hold(sight.stray, same.values())
    if at is None:
        return None
    what = f"slots {few(sight.seen.unknown)} hold keys and values of layer {list(same)[at]}"
    return "other-layer", what


def other_heads(sight: Sight) -> Claim:
    """The stray slots hold the sequence's tokens with their KV heads in another order."""
    order = sight.look.head_order(sight.stray)
    if order is None:
        return None
    heads = sight.look.reference.rows(sight.look.call.layer).size(1)
    mapped = [n // (len(order) // heads) for n in order]
    if len(order) > heads and mapped == [h % heads for h in range(len(order))]:
        return "group-map-modulo", "query head h reads KV head h % Hkv instead of h // group"
    return "heads-exchanged", f"KV heads are in the order {', '.join(map(str, mapped))}"


def stale(sight: Sight) -> Claim:
    """The stray slots still hold a draft that was rolled back."""
    fits = sight.look.hold_any(sight.seen.unknown, sight.drafts)
    what = f"slots {few(sight.seen.unknown)} hold tokens that were rolled back"
    return ("stale-content", what) if fits else None


def rotary(sight: Sight) -> Claim:
    """The keys in the stray slots are encoded for other positions; told in the first layer alone,
    since what comes later depends on all before it."""
    if sight.look.call.layer:
        return None
    for shift in SHIFTS:
        if sight.look.hold(sight.stray, [sight.look.due(sight.shifted(shift))]) is not None:
            where = f"keys in slots {few(sight.seen.unknown)}"
            return position_name(shift), f"{where} are encoded for a position {shift:+d} off"
    return None


def position_name(shift: int) -> str:
    """The name of an encoding for the position ``shift`` after its own."""
    return ROTARY if abs(shift) == 1 else "rotary-off"


MASK = (no_query_offset, padding, rolled_back, ahead, wide, behind)
CONTENT = (never_written, other_sequence, other_layer, other_heads, stale, rotary)
