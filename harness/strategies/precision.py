"""Cases that show how precise a function is: random data, and many rows each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from harness.case import DecodeCase
from harness.case.domain import Domain
from harness.case.quantised import QUANTISED_FEATURES
from harness.strategies.drawing import domain_cases

ROWS = 64
# A row has at most so many elements of keys, of which ``harness.oracle.rows`` takes many rows.
_MOST = 2**15
# The caches' lengths, in turn; 7 of them meet each of 15 pairs of dtype and head dim.
_SLOTS = (500, 120, 1000, 30, 250, 60, 700)


def precision_cases(domain: Domain, source: int) -> Iterator[DecodeCase]:
    """Cases of a domain that show how precise a function is, the same for the same ``source``:
    drawn ones with random data and at least ``ROWS`` rows, at the end of their caches. Dtypes and
    head dims come in turn, so that each is met with each."""
    if set(QUANTISED_FEATURES) & set(domain.requires):
        return  # What such caches lose is not emulated.
    pairs = [(dtype, dim) for dim in reversed(domain.head_dims) for dtype in domain.dtypes]
    turns = zip(itertools.cycle(pairs), itertools.cycle(_SLOTS), strict=False)
    (dtype, dim), slots = next(turns)
    for drawn in domain_cases(domain, f"{source}/precision"):
        plain = drawn.replace(dtype=dtype, head_dim=dim, cache="none")
        case = _telling(plain, min(slots, domain.cache_len[1]))
        elements = case.cache_len * max(case.head_dim, case.value_dim)
        if elements <= _MOST and not case.has_column and domain.refuses(case) is None:
            yield case
            (dtype, dim), slots = next(turns)


def _telling(case: DecodeCase, slots: int) -> DecodeCase:
    """The case with random data and more rows, without a sink, at the end of a cache of ``slots``
    slots or, where that is longer, of its own."""
    cache_len = max(case.cache_len, min(slots, _MOST // max(case.head_dim, case.value_dim)))
    shift = cache_len - case.q_len - max(case.input_pos)
    more = max(1, -(-ROWS // (case.batch * case.heads * case.q_len)))
    scores = [kind.text(case.scores[kind.name]) for kind in case.score_kinds if not kind.column]
    return dataclasses.replace(
        case,
        cache_len=cache_len,
        input_pos=tuple(p if p < 0 else p + shift for p in case.input_pos),
        heads=case.heads * more,
        kv_heads=case.kv_heads * more,
        logits="x5" if case.seed % 2 else "normal",
        probe="none",
        score="+".join(scores) or "none",
    )
