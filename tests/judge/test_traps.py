"""Calls that are the caller's error: torch refuses them, or lets them pass silently."""

from __future__ import annotations

import pytest

from harness.hunting import traps

SILENT = {
    "create_block_mask with B=None, where the mask depends on b",
    "a mask_mod whose positions moved on after its tables were made",
    "a block listed as full of which the mask shows a part",
    "a block listed twice",
}
REFUSED = {
    "a block mask for fewer slots than the cache has",
    "a block mask for more slots than the cache has",
}


@pytest.mark.compiles
@pytest.mark.parametrize("name", traps.TRAPS)
def test_traps_are_refused_or_pass_silently(name: str) -> None:
    """What torch does with errors of the caller; a green one would be no trap."""
    trap = traps.spring(name)
    assert trap.eager.startswith("refused") is (name in REFUSED)
    if name in SILENT:
        assert "off what was meant" in trap.compiled


def test_every_trap_whose_end_is_known_is_there() -> None:
    """A name that is none would be judged by nobody."""
    assert {*traps.TRAPS} > SILENT | REFUSED
