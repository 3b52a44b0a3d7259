"""Profiles and threads for tests and benchmarks."""

import os
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

pytest.register_assert_rewrite("tests.support")


def examples_of(device: str) -> DirectoryBasedExampleDatabase:
    """The failing examples of one kind of device: where a replay passes, Hypothesis deletes the
    example, so the CPU would delete what only the GPU gets wrong."""
    return DirectoryBasedExampleDatabase(Path(__file__).parent / ".hypothesis" / device)


# No deadline anywhere: a compile in an example takes seconds.
settings.register_profile("default", max_examples=50, deadline=None, database=examples_of("cpu"))
settings.register_profile(
    "ci", settings.get_profile("default"), derandomize=True, database=None, print_blob=True
)
settings.register_profile(
    "gpu", settings.get_profile("default"), max_examples=200, database=examples_of("cuda")
)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=2000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)

# Tests run beside each other; one thread each keeps them from fighting over the cores.
torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach to each test how many drawn cases it left out because torch is known to be wrong."""
    drawn = sys.modules.get("tests.support.drawn")
    if call.when == "call" and drawn is not None and drawn.EXCLUDED:
        item.user_properties.append(("excluded", dict(drawn.EXCLUDED)))
        drawn.EXCLUDED.clear()
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, never silently."""
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == "excluded":
                        total.update(value)
    if total:
        terminalreporter.section("drawn cases left out: known upstream failures (FINDINGS.md)")
        for name, count in sorted(total.items()):
            terminalreporter.line(f"{count:6} {name}")
