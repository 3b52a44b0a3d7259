"""A benchmark that is missing turns the run red: pytest-benchmark itself would not notice.

With ``--benchmark-disable`` each runs once, in a smaller size where it would take seconds.
"""

from pathlib import Path

import pytest

NAMES = Path(__file__).parent / "names.txt"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare what ran with the list of names; a selection (``-k``, a node id) is let alone."""
    config = session.config
    if config.option.keyword or any("::" in argument for argument in config.args):
        return
    ran = {item.name for item in session.items if getattr(item, "benchmarked", False)}
    if missing := sorted(set(NAMES.read_text(encoding="utf-8").split("\n")) - {""} - ran):
        print(f"\nbenchmarks that did not run: {', '.join(missing)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):  # type: ignore[no-untyped-def]
    """Mark items whose benchmark fixture measured something, or ran what it would measure."""
    result = yield
    fixture = getattr(item, "funcargs", {}).get("benchmark")
    item.benchmarked = fixture is not None and (fixture.disabled or fixture.stats is not None)
    return result
