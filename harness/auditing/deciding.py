"""Deciding what is wrong with an attention call of a model, by evidence from its own tensors.

A call is looked at in the order in which it comes about: is the query that of its token at its
position, do the slots hold what they should, does the mask show the slots that it should, and does
the kernel do what the mask says. The first that is off is the cause, since what follows from it
would be off as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.auditing.blame import Blame, Cause, few
from harness.auditing.call import AttentionCall, Expected
from harness.auditing.content import NOTHING, nearest
from harness.auditing.look import Look
from harness.auditing.naming import CONTENT, MASK, SHIFTS, Claim, Sight, position_name
from harness.auditing.reference import Reference
from harness.case.precision import Precision
from harness.oracle.error import measure


@dataclass(frozen=True)
class Step:
    """What is known of the forward that made a call.

    ``tokens`` int64 ``[B, Q]`` numbers each query's token in its sequence, ``NOTHING`` for padding.
    ``live`` has a reference for each sequence. ``drafts`` are references of tokens that were rolled
    back. ``shifted(sequence, shift)`` is a reference whose token i + shift is the sequence's token
    i (other tokens stand before it, or its first ones are left out).
    """

    tokens: Tensor
    live: tuple[Reference, ...]
    drafts: tuple[Reference, ...]
    shifted: Callable[[int, int], Reference]


def blamed(call: AttentionCall, step: Step, precision: Precision | None = None) -> Blame | None:
    """What is wrong with the call, or None; of several sequences, the first that is off."""
    looks = [look_at(call, step, b) for b in range(call.query.size(0))]
    for check in (_query, _slots):
        for look in looks:
            if look.rows.numel() and (found := check(look, step)):
                return found
    tokens = [(look.sequence, look.rows, look.tokens) for look in looks]
    return _kernel(call, tokens, call.expected(precision))


def look_at(call: AttentionCall, step: Step, b: int) -> Look:
    """Sequence ``b`` of the call beside its reference."""
    # Queries and keys of deeper layers depend on all before them, so that those of a shifted
    # sequence say nothing there.
    next_to = (1, -1) if call.layer == 0 else ()
    neighbours = tuple(step.shifted(b, shift) for shift in next_to)
    return Look(call, step.tokens[b], step.live[b], b, neighbours)


def _query(look: Look, step: Step) -> Blame | None:
    off = look.queries_are != look.tokens
    if not off.any():
        return None
    row = int(off.nonzero()[0])
    token = int(look.tokens[row])
    found = int(look.queries_are[row])
    if found != NOTHING:
        evidence = f"the query of token {token} is that of token {found} in the uncached forward"
        return look.blame(Cause.INPUT, "", row, evidence)
    for shift in SHIFTS if look.call.layer == 0 else ():
        other = step.shifted(look.sequence, shift)
        if token + shift < 0:
            continue
        candidates = torch.cat([look.reference.queries(0), other.queries(0)])
        query = look.query_rows[row : row + 1]
        known = int(nearest(query, candidates.flatten(1), look.call.query.dtype))
        if known == len(look.reference.tokens) + token + shift:
            evidence = f"the query of token {token} is encoded for position {token + shift}"
            return look.blame(Cause.POSITION, position_name(shift), row, evidence)
    evidence = (
        f"the query of token {token} is none of the uncached forward's, so what comes before the"
        " call is off"
    )
    return look.blame(Cause.INPUT, "", row, evidence)


def _slots(look: Look, step: Step) -> Blame | None:
    wrong = ~look.right
    if not wrong.any():
        return None
    row = int(wrong.nonzero()[0])
    sight = Sight(
        look,
        row,
        {b: other for b, other in enumerate(step.live) if b != look.sequence},
        step.drafts,
        lambda shift: step.shifted(look.sequence, shift),
    )
    seen, evidence = sight.seen, look.clauses(row)
    as_many = int(look.visible[row].sum()) == int(look.should[row].sum())
    lost = [token for token in seen.missing if token not in look.held]
    if seen.unknown and (lost or as_many):
        unknown = f"what slots {few(seen.unknown)} hold is no token of the uncached forward"
        name, what = _first(CONTENT, sight) or ("", unknown)
        cause = Cause.POSITION if name.startswith("rotary") else Cause.CONTENT
        return look.blame(cause, name, row, *evidence, what)
    if lost:
        return look.blame(Cause.CONTENT, "", row, *evidence, f"tokens {few(lost)} are in no slot")
    name, what = _first(MASK, sight) or ("", "")
    return look.blame(Cause.MASK, name, row, *evidence, *([what] if what else []))


def _first(claims: Iterable[Callable[[Sight], Claim]], sight: Sight) -> Claim:
    return next((found for claim in claims if (found := claim(sight)) is not None), None)


def kernel_blame(call: AttentionCall, expected: Expected) -> Blame | None:
    """What is wrong with the call beside its own mask, or None, whatever its tokens are."""
    rows = torch.arange(call.query.size(2))
    return _kernel(call, [(b, rows, rows) for b in range(call.query.size(0))], expected)


def _kernel(
    call: AttentionCall,
    sequences: list[tuple[int, Tensor, Tensor]],
    expected: Expected,
) -> Blame | None:
    """``sequences`` are their numbers, the rows ``[R]`` of the call that are tokens, and the
    numbers of these tokens."""
    exact, bound = expected.exact, expected.budget
    for b, given, numbers in sequences:
        # A row with nothing to attend is padding, whose output nobody uses.
        attends = (expected.weights[b] != 0).any(-1)
        shown = attends.any(0)[given]
        rows, tokens = given[shown], numbers[shown]
        if not rows.numel():
            continue
        output = torch.where(attends.unsqueeze(-1), call.output[b], exact[b])
        error = measure(output[:, rows], exact[b][:, rows], bound[b][:, rows])
        if error.utilisation <= 1:
            continue
        head, at = error.index[0], error.index[1]
        row = int(rows[at])
        evidence = [
            f"the output of head {head} is off by {error.utilisation:.3g} times the rounding"
            " budget of attention over the slots that its mask shows"
        ]
        name = ""
        if call.group > 1 and call.key.size(1) > 1:
            modulo = torch.arange(call.query.size(1)) % call.key.size(1)
            other = call.expected(heads=modulo).exact[b][:, rows]
            if measure(call.output[b][:, rows], other, bound[b][:, rows]).utilisation <= 1:
                name = "group-map-modulo"
                evidence.append("query head h reads KV head h % Hkv instead of h // group")
        if not name:
            evidence += _read_off(call, expected, b, row)
        token = int(tokens[at])
        return Blame(Cause.KERNEL, name, tuple(evidence), call.layer, b, token, row)
    return None


def _read_off(call: AttentionCall, expected: Expected, b: int, row: int) -> list[str]:
    """What the call attends beside what its mask shows, as clauses."""
    if call.again is None:
        return ["it is a part of compiled code, so what it attends cannot be read off"]
    weights, shown = call.attended()[b][:, row], call.visible[b][:, row]
    due = expected.weights[b][:, row]
    # A weight may be so small that it is flushed to zero.
    ignored = (weights == 0) & shown & (due > torch.finfo(call.query.dtype).tiny)
    found = []
    for off, what in (
        ((weights != 0) & ~shown, "it attends slots {}, which its mask hides"),
        (ignored, "it does not attend slots {}, which its mask shows"),
    ):
        if off.any():
            found.append(what.format(few(off.any(0).nonzero().flatten().tolist())))
    return found
