"""Fixtures that tests of several folders ask for."""

import math
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from harness.interpreter.gpu import missing
from harness.paths.compile import why_not
from tests.support import ROOT, day, hidden
from tests.support.eager import tracing
from tests.support.interpreting import Interpreting
from tests.support.processes import Preloaded

# Worker processes get this path, and load functions that import from ``tests``. At its end, so that
# the harness that is installed comes first.
sys.path.append(str(ROOT))
# The processes of pytest-xdist run the part of one day, also around midnight.
os.environ.setdefault(day.VARIABLE, day.date().isoformat())
# How many tests of each claim the day leaves out.
LEFT_OUT: Counter[str] = Counter()


def pytest_report_header() -> str:
    """How to run this day's part again."""
    date = os.environ[day.VARIABLE]
    return f"the part of {date}: {day.VARIABLE}={date} runs it again, -m '' runs all parts"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the night what is not the day's part, and say "not run", with the reason, where the
    machine lacks what a test needs."""
    day.rotate(items)
    with hidden.shown():
        interpreter = missing()
    reasons = {
        "gpu": None if torch.cuda.is_available() else "not run: no CUDA device",
        "models": None if find_spec("transformers") else "not run: no transformers",
        "interprets": None if interpreter is None else f"not run: {interpreter}",
        "compiles": None if why_not("cpu") is None else f"not run: {why_not('cpu')}",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Show Triton to the tests that interpret kernels alone."""
    with hidden.shown() if item.get_closest_marker("interprets") else nullcontext():
        return (yield)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what is left to the night."""
    LEFT_OUT.update(i.nodeid.partition("[")[0] for i in items if i.get_closest_marker("nightly"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a process of pytest-xdist to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts of a process of pytest-xdist, which are those of all of them."""
    LEFT_OUT.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - LEFT_OUT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, never silently."""
    if LEFT_OUT:
        terminalreporter.section(f"left to the night: {LEFT_OUT.total()} tests (-m '' runs them)")
        for claim, count in sorted(LEFT_OUT.items()):
            terminalreporter.line(f"{count:6} {claim}")


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
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched in this process is shrunk to the end, however busy the machine is."""
    for limit in ("SHRINK_SECONDS", "SHRINK_HANG_SECONDS"):
        monkeypatch.setattr(f"harness.function.limits.{limit}", math.inf)


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
