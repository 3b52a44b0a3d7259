"""Profiles, markers and threads for the whole test suite."""

import os

import pytest
import torch
from hypothesis import settings

from harness.compile import why_not

pytest.register_assert_rewrite("tests.support")

# No deadline anywhere: a compile in an example takes seconds.
settings.register_profile("default", max_examples=50, deadline=None)
settings.register_profile(
    "ci", settings.get_profile("default"), derandomize=True, database=None, print_blob=True
)
settings.register_profile("gpu", settings.get_profile("default"), max_examples=200)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=2000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)

# Tests run beside each other; one thread each keeps them from fighting over the cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say "not run", with the reason, where the machine lacks what a test needs."""
    reasons = {
        "gpu": None if torch.cuda.is_available() else "not run: no CUDA device",
        "compiles": None if why_not("cpu") is None else f"not run: {why_not('cpu')}",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
