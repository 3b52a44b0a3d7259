"""Functions of torch replaced under each name by which they are called, for a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Function = Callable[..., Any]
Watched = Mapping[Function, Function]
# What keeps the functions themselves: torch's core, and the modules that watch them.
_KEEPERS = ("torch._C", "harness.auditing.observe", "harness.auditing.by_hand")


@contextlib.contextmanager
def replaced(watched: Watched, holders: Iterable[Any], *, outermost: bool) -> Iterator[None]:
    """In the block, what is in ``watched`` stands in the place of each function, in all modules and
    as attributes of ``holders``. Modules that are imported meanwhile get the functions back too,
    after the ``outermost`` block."""
    held = list(holders)
    found = list(_places(watched, held))
    for holder, name, _, value in found:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, function, _ in found:
            setattr(holder, name, function)
        if outermost:
            for holder, name, _, value in list(_places({w: f for f, w in watched.items()}, held)):
                setattr(holder, name, value)


def _places(of: Watched, holders: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Holder, name, function and what takes its place."""
    by_id = {id(function): (function, other) for function, other in of.items()}
    modules = [m for name, m in list(sys.modules.items()) if not name.startswith(_KEEPERS)]
    for holder in (*modules, *holders):
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            if id(value) in by_id:
                yield (holder, name, *by_id[id(value)])
