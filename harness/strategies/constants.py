"""Hypothesis draws the same for the same seed, whatever a process has imported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants


@contextmanager
def without_constants_of_modules() -> Iterator[None]:
    """A context in which Hypothesis draws none of the numbers that stand in modules outside of
    site-packages: which of these are imported is another matter in each process, and the harness is
    one of them only where it is not installed."""
    if not hasattr(providers, "_get_local_constants"):
        yield
        return
    none = Constants()
    providers.CONSTANTS_CACHE.cache.clear()
    try:
        with mock.patch.object(providers, "_get_local_constants", return_value=none):
            yield
    finally:
        providers.CONSTANTS_CACHE.cache.clear()
