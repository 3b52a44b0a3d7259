"""A ledger of one entry."""

from __future__ import annotations

import dataclasses

from harness.ledger.entries import Entry, Ledger

ENTRY = Entry(
    path="fixed",
    dtype="float32",
    mode="eager",
    kind="normal",
    torch="2.13.0",
    hardware="x86_64 AVX2",
    threads=1,
    cases=12,
    worst_utilisation=0.2,
    median_utilisation=0.1,
    relative_l2=1e-7,
    max_abs=1e-6,
    signed_mean=-1e-9,
    worst_case="S=8,pos=1",
    date="2026-11-23",
    environment={"torch": "2.13.0"},
)
LEDGER = Ledger({ENTRY.key: ENTRY})


def but(**changes: object) -> Entry:
    """The entry with some of its fields changed."""
    return dataclasses.replace(ENTRY, **changes)  # type: ignore[arg-type]
