"""The kinds of masks: which slots a query attends, given its position.

An entry holds all that is known of a kind, and its rule only as the text of standalone scripts. The
rule is stated again for the oracle (``harness.case.visible``) and for what is judged: FlexAttention
and SDPA (``harness.paths.masks``) and the fixed path (``harness.decoding.block_mask``, with
arguments from ``harness.paths.calls``). Scripts, oracle and what is judged share no code, so that a
mistake in one shows as a disagreement with the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.case.kinds import Argument, Kind, by_name


@dataclass(frozen=True, kw_only=True)
class MaskKind(Kind):
    """A kind of mask.

    ``script`` is its rule as text of a standalone script, over the slot ``kv`` and the query's
    position ``t``, with the arguments by name. ``causal`` says that no query attends a slot after
    its own.
    """

    script: str
    causal: bool = True


def _few(block: int) -> tuple[int, ...]:
    return (1, 2, 3)


_WINDOW = Argument("W", edge=lambda position, w: (position - w, position - w + 1), option="window")
_SINKS = Argument("N", most=6, likely=_few, edge=lambda position, n: (n - 1, n), option="sinks")
_DILATION = Argument(
    "R",
    most=6,
    likely=_few,
    edge=lambda position, r: (position - r, position - 1),
    option="dilation",
)
_PREFIX = Argument("P", in_cache=True, edge=lambda position, p: (p - 1, p), option="prefix")
_LENGTH = Argument(
    "L", edge=lambda position, n: (position // n * n - 1, position // n * n, position // n * n + n)
)

MASKS: dict[str, MaskKind] = by_name(
    MaskKind(name="causal", help="every slot up to its own", arguments={}, script="kv <= t"),
    MaskKind(
        name="window",
        help="the last W slots, its own among them",
        arguments={"window": _WINDOW},
        feature="window",
        asks="option window=W, a sliding window that counts the token itself",
        script="(kv <= t) & (kv > t - {window})",
    ),
    MaskKind(
        name="sinks",
        help="a window of W and the first N slots",
        arguments={"window": _WINDOW, "sinks": _SINKS},
        feature="sinks",
        asks="options window=W and sinks=N: the window, and the first N slots",
        script="(kv <= t) & ((kv > t - {window}) | (kv < {sinks}))",
    ),
    MaskKind(
        name="prefix",
        help="causal, and the first P slots for everyone",
        arguments={"prefix": _PREFIX},
        feature="prefix",
        asks="option prefix=P: every token of a live sequence also attends the first P slots",
        script="(kv <= t) | (kv < {prefix})",
        causal=False,
    ),
    MaskKind(
        name="document",
        help="its own document, packed ones of L slots each",
        arguments={"document": _LENGTH},
        script="(kv <= t) & (kv // {document} == t // {document})",
    ),
    MaskKind(
        name="dilated",
        help="of a window of W slots every R-th, counted back from its own",
        arguments={"window": _WINDOW, "dilation": _DILATION},
        feature="dilated",
        asks="options window=W and dilation=R: of the window every R-th slot, back from its own",
        script="(kv <= t) & (kv > t - {window}) & ((t - kv) % {dilation} == 0)",
    ),
)
