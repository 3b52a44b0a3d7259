"""Pieces of a gate that run apart, in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator

from harness.case import DTYPES
from harness.ledger.entries import Entry
from harness.ledger.measure import measure_all
from harness.paths import PATHS
from harness.support.threads import one_thread
from harness.verdict import Finding, contract


def broken_promises(path: str, device: str) -> Iterator[dict[str, Finding]]:
    """The promises that a path breaks, as ``contract.broken`` gives them."""
    yield contract.broken(PATHS[path], device)


def eager_entries(device: str) -> Iterator[Entry]:
    """The ledger's eager entries, measured with one thread."""
    with one_thread():
        yield from measure_all(device, DTYPES, ["eager"], lambda text: None)
