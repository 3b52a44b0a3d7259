"""Fixtures that tests of several folders ask for."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.eager import tracing
from tests.support.processes import Preloaded


@pytest.fixture(scope="module")
def untraced() -> Iterator[None]:
    """Eager flex_attention without dynamo around it, for tests that draw their geometry."""
    with tracing(False):
        yield


@pytest.fixture
def without_grad() -> Iterator[None]:
    """No autograd, as in decoding."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def preloaded() -> Iterator[Preloaded]:
    """Runs scripts in processes that have torch imported already."""
    running = Preloaded()
    yield running
    running.close()
