"""Hypothesis' own deadline for an example of a test, which judging a decode path exceeds."""

from __future__ import annotations

import functools
import sys
from typing import Any


def without_default_deadline() -> None:
    """Lift the deadline of 200 ms from the running example; outside of Hypothesis do nothing.

    A deadline that the user states, in the test's settings or in a profile, stays. Settings inherit
    the very object that is the default, so that 200 ms can be told from a stated 200 ms.
    """
    hypothesis: Any = sys.modules.get("hypothesis")
    if hypothesis is None or not hypothesis.currently_in_test_context():
        return
    from hypothesis.control import cleanup  # noqa: PLC0415  # Hypothesis is there, but may not be.

    # Within a test the default settings are the test's. Other tests may share them, so that they
    # are changed until the end of the example, when Hypothesis has looked at the time.
    running = hypothesis.settings.default
    if running.deadline is not None and running.deadline is _default():
        running._deadline = None
        cleanup(lambda: setattr(running, "_deadline", _default()))


@functools.cache
def _default() -> Any:
    from hypothesis import _settings  # noqa: PLC0415

    # Not the profile "default", which a project may have registered anew.
    return _settings.default.deadline
