"""A standalone script for the attention call of a model that an audit blames; it needs torch alone.

Numbers are drawn, since what is wrong with a mask or a cache is wrong whatever the numbers are;
which token's key and value lies in which slot, and which slots the mask shows, are the call's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from harness.auditing.blame import Cause
from harness.auditing.call import AttentionCall
from harness.auditing.content import NOTHING
from harness.auditing.run import Audit, Evidence
from harness.case import DecodeCase
from harness.case.precision import Precision
from harness.script.case_script import flex_call, row_lines, score_functions
from harness.script.inputs import drawn
from harness.script.oracle import budget_lines, golden_lines, intermediates, score_lines
from harness.script.text import indented, script

_INDICES = 'b, h, q, kv = torch.meshgrid(*map(torch.arange, (B, HQ, Q, S)), indexing="ij")'


class NoScriptError(ValueError):
    """A call that no script of torch alone can show; the message says why."""


def call_script(audit: Audit) -> str:
    """A script that makes the call an audit blames, and exits with 1 while it is wrong.

    A kernel's is the whole call beside its own mask. A mask's or a cache's is the row in question,
    beside what its mask shows and beside what its token should see.

    Raises:
        NoScriptError: where attention is no function of torch's, or the call is not at fault.
    """
    blame, evidence = audit.blame, audit.evidence
    if blame is None or evidence is None:
        raise NoScriptError("no call is blamed")
    call = evidence.call
    if not call.operator:
        raise NoScriptError("attention is no function of torch's, or changes scores in its own way")
    if (call.visible != call.visible[:, :1]).any():
        raise NoScriptError("the mask is another one for each head")
    whole = blame.cause is Cause.KERNEL
    shown = call.visible[blame.sequence, 0, blame.row].nonzero().flatten().tolist()
    sees = [evidence.held[slot] for slot in shown]
    if blame.cause is Cause.INPUT or (not whole and sees == evidence.due):
        raise NoScriptError("what is wrong comes before the call, which attends what it should")
    wrong = "the kernel is wrong" if whole else "a token sees what it should not"
    title = [
        f"Exit code 1 while {wrong}.",
        "",
        *audit.headline(),
        "Numbers are drawn; which slots hold which tokens, and what the mask shows, is the call's.",
    ]
    body = _whole(call) if whole else _row(evidence, shown)
    return script("\n".join(title), None, "cpu", body)


def _case(call: AttentionCall, batch: int, rows: int, slots: int) -> DecodeCase:
    """The call's sizes, dtype and scores as a case, whose positions mean nothing."""
    softcap = "" if call.softcap is None else f"softcap:{call.softcap:g}"
    dims = call.query.size(3)
    return DecodeCase(
        cache_len=max(slots, rows),
        input_pos=(max(slots, rows) - rows,) * batch,
        heads=call.query.size(1),
        kv_heads=call.key.size(1),
        head_dim=dims,
        value_dim=call.value.size(3),
        q_len=rows,
        dtype=str(call.query.dtype).removeprefix("torch."),
        scale=None if math.isclose(call.scale, dims**-0.5) else call.scale,
        score="+".join(filter(None, [softcap, "sink" if call.sink is not None else ""])) or "none",
    )


def _whole(call: AttentionCall) -> Iterator[str]:
    batch, _, rows, slots = call.visible.shape
    case = _case(call, batch, rows, slots)
    if call.operator == "flex_attention" and call.again is None:
        yield "flex_attention = torch.compile(flex_attention)"
    yield from _functions(case, call.operator)
    yield from drawn(case, "cpu", positions=False)
    yield "shows = torch.zeros(B, 1, Q, S, dtype=torch.bool)  # what the mask says"
    for b in range(batch):
        for row in range(rows):
            shown = call.visible[b, 0, row].nonzero().flatten().tolist()
            yield from _spans(f"shows[{b}, 0, {row}", shown)
    yield ""
    yield 'check("beside its own mask", attend(key, value, shows), key, value, shows)'
    yield "sys.exit(any(wrong))"


def _row(evidence: Evidence, shown: list[int]) -> Iterator[str]:
    call, held, due = evidence.call, evidence.held, evidence.due
    # Slots that the mask shows and that hold no token get keys and values behind all tokens'.
    tokens = 1 + max([*due, *held])
    strays = [slot for slot in shown if held[slot] == NOTHING]
    rows = {slot: held[slot] for slot in range(len(held)) if held[slot] != NOTHING}
    rows |= {slot: tokens + n for n, slot in enumerate(strays)}
    case = _case(call, 1, 1, max(len(held), tokens + len(strays)))
    yield from _functions(case, call.operator)
    yield from drawn(case, "cpu", positions=False)
    yield f"# Keys and values of {tokens} tokens, and behind them some of none."
    yield "held = torch.full((S,), -1)  # whose key and value each slot of the cache has"
    for start, stop, first in _runs(rows.items()):
        yield f"held[{start}:{stop}] = torch.arange({first}, {first + stop - start})"
    yield "shows, due = torch.zeros(2, B, 1, Q, S, dtype=torch.bool)"
    yield from _spans("shows[...", shown, "  # slots that the mask shows")
    yield from _spans("due[...", due, "  # tokens that should be seen")
    yield "cache = [x[:, :, held] for x in (key, value)]"
    yield ""
    yield "out = attend(*cache, shows)"
    yield 'check("beside what its mask shows", out, *cache, shows)'
    yield 'check("beside what it should see", out, key, value, due)'
    yield 'check("given what it should see", attend(key, value, due), key, value, due)'
    yield "sys.exit(wrong[1])"


def _spans(name: str, numbers: Iterable[int], comment: str = "") -> Iterator[str]:
    for start, stop, _ in _runs((n, n) for n in numbers):
        yield f"{name}, {start}:{stop}] = True{comment}"
        comment = ""


def _runs(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pairs that rise together, as start and stop of the first numbers and start of the second."""
    start, stop, first = 0, 0, 0
    for number, other in pairs:
        if stop > start and (number, other - first) == (stop, stop - start):
            stop += 1
            continue
        if stop > start:
            yield start, stop, first
        start, stop, first = number, number + 1, other
    if stop > start:
        yield start, stop, first


def _functions(case: DecodeCase, operator: str) -> Iterator[str]:
    # The head of a script ends with one of the two empty lines.
    yield from [*score_functions(case), "", ""][1:]
    if operator == "flex_attention":
        yield "def attend(k, v, shows):"
        yield "    mask_mod = lambda b, h, q, kv: shows[b, 0, q, kv]"
        yield "    mask = create_block_mask(mask_mod, B, None, Q, S, DEVICE)"
        yield f"    return {flex_call(case)}"
    else:
        yield "def attend(k, v, shows):"
        yield "    sdpa = torch.nn.functional.scaled_dot_product_attention"
        yield "    return sdpa(query, k, v, shows, scale=SCALE, enable_gqa=HQ != HKV)"
    yield ""
    yield ""
    yield "def check(name, out, key, value, allowed):"
    yield "    # Golden, and what rounding can explain, in float64."
    modified = bool(score_lines(case))
    lines = [
        *([_INDICES] if modified else []),
        *golden_lines(case, ["score_mod(s, b, h, q, kv)"] if modified else []),
        *budget_lines(case, "cpu", Precision(), intermediates(case)),
        "out = out.masked_fill(n == 0, 0)  # a row that sees nothing is padding",
        *row_lines(case),
    ]
    yield from indented(lines)
    yield ""
    yield ""
    yield "wrong = []"
