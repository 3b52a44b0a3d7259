"""Fixtures that tests of several folders ask for."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.eager import tracing
from tests.support.interpreting import Interpreting
from tests.support.processes import Preloaded


@pytest.fixture(scope="module")
def untraced() -> Iterator[None]:
    """Eager flex_attention without dynamo around it, for tests that draw their geometry."""
    with tracing(False):
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Processes that are started use one thread each, so that tests do not fight over the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
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


@pytest.fixture(scope="session")
def interpreting() -> Iterator[Interpreting]:
    """A process that interprets Triton kernels."""
    running = Interpreting()
    yield running
    running.close()
