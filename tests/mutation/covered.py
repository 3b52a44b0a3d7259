"""Which tests run which lines of the subjects, and what each test costs."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import signal
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.mutation import SUBJECTS, TESTS
from tests.mutation.forked import OverTime, Plugin, fork

# CPU seconds of a test, measured with coverage on; above it, it is left out.
MOST_S = 6
# Of a module of tests: what is left of it then is left out.
MOST_OF_MODULE_S = 90
NOT_REACHED = "not reached in the seconds of its module"


class Measuring(Plugin):
    """Measures each test: its CPU seconds, the lines that it runs, and why it is left out."""

    def __init__(self, copy: Path) -> None:
        super().__init__()
        self.measured: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, dict[int, list[str]]] = {}
        files = [str(copy / module) for module in SUBJECTS]
        _Measure.files = dict(zip(SUBJECTS, files, strict=True))
        _Measure.coverage = coverage.Coverage(None, include=files, config_file=False)
        _Measure.coverage.start()

    def pytest_sessionstart(self) -> None:
        """What a module does when it is imported belongs to no test."""
        super().pytest_sessionstart()
        for module in SUBJECTS:
            importlib.import_module(module.removesuffix(".py").replace("/", "."))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Until it is measured, a test is not reached."""
        unseen = {"cpu_s": 0.0, "why": NOT_REACHED}
        self.measured = {item.nodeid: dict(unseen) for item in session.items}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """One test, with its fixtures."""
        before = time.process_time()
        if sum(m["cpu_s"] for m in self.measured.values()) > MOST_OF_MODULE_S:
            pytest.exit("enough", 0)
        self.measured[item.nodeid]["why"] = None
        _Measure.coverage.switch_context(item.nodeid)
        signal.signal(signal.SIGPROF, _over)
        signal.setitimer(signal.ITIMER_PROF, MOST_S)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.measured[item.nodeid]["cpu_s"] = round(time.process_time() - before, 3)
            _Measure.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Whether it passes here, where no process can be started."""
        if not report.passed:
            text = str(report.longrepr)
            why = "OverTime" in text and f"takes more than {MOST_S} CPU s"
            why = why or (report.skipped and "not run here")
            self.measured[report.nodeid]["why"] = why or "starts a process, or fails without one"

    def pytest_sessionfinish(self) -> None:
        """The lines of each subject, with the tests that run them."""
        _Measure.coverage.stop()
        data = _Measure.coverage.get_data()
        for module, file in _Measure.files.items():
            by_line = data.contexts_by_lineno(file)
            self.lines[module] = {
                line: [test for test in tests if test] for line, tests in by_line.items()
            }


class _Measure:
    """What of a measurement is no value of JSON."""

    coverage: coverage.Coverage
    files: dict[str, str]


def _over(*_: object) -> None:
    raise OverTime


@dataclass(frozen=True)
class Covered:
    """``cost``: CPU seconds of each test that is run; ``left_out``: why others are not; ``lines``:
    the tests of each line, by module."""

    cost: dict[str, float]
    left_out: dict[str, str]
    lines: dict[str, dict[int, list[str]]]

    def tests(self, text: str, module: str, line: int) -> list[str]:
        """The tests that run a line, else its statement, else, as for what is done at import, all
        that run anything of its function or, outside of functions, of its module."""

        lines = self.lines[module]
        for first, last in ((line, line), *spans(text, line)):
            found = {t for n in range(first, last + 1) for t in lines.get(n, ()) if t in self.cost}
            if found:
                break
        return self.in_order(found)

    def in_order(self, tests: Iterable[str]) -> list[str]:
        """The cheapest modules of tests first, and in each the cheapest tests."""
        files: dict[str, list[str]] = {}
        for test in sorted(tests, key=lambda test: (self.cost[test], test)):
            files.setdefault(test.partition("::")[0], []).append(test)
        mean = {file: sum(self.cost[t] for t in some) / len(some) for file, some in files.items()}
        return [test for file in sorted(files, key=mean.__getitem__) for test in files[file]]


def spans(text: str, line: int) -> list[tuple[int, int]]:
    """First and last lines of the statement at a line (its head, where it has a body), of the
    innermost function around it, and of the module."""
    statement, function = (line, line), None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            above = [d.lineno for d in getattr(node, "decorator_list", ())]
            first, last = min(above, default=node.lineno), node.end_lineno or node.lineno
            if not first <= line <= last:
                continue
            if isinstance(node, ast.FunctionDef):
                function = (first, last)
            body = getattr(node, "body", None)
            if not body or line < body[0].lineno:
                statement = (first, body[0].lineno - 1 if body else last)
    whole = (1, len(text.splitlines()))
    return [statement, *([function] if function else []), whole]


def covered(copy: Path, kept: Path, say: Callable[[str], None]) -> Covered:
    """Measure each module of tests, or take what is kept of it where neither it nor a subject has
    changed."""
    subjects = b"".join((copy / module).read_bytes() for module in SUBJECTS)
    cost: dict[str, float] = {}
    left_out: dict[str, str] = {}
    lines: dict[str, dict[int, list[str]]] = {module: {} for module in SUBJECTS}
    kept.mkdir(exist_ok=True)
    (kept / ".gitignore").write_text("*\n")
    for number, tests in enumerate(TESTS, 1):
        digest = hashlib.sha256(subjects + (copy / tests).read_bytes()).hexdigest()
        file = kept / f"{tests.replace('/', '.')}.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if found.get("digest") != digest:
            found = fork(copy, Measuring(copy), [tests], 2 * MOST_OF_MODULE_S)
            if "lines" not in found:
                raise RuntimeError(f"{tests}: pytest ended with {found['code']}")
            file.write_text(json.dumps(found | {"digest": digest}))
            say(f"{number}/{len(TESTS)} {tests}: {found['cpu_s']:.0f} CPU s")
        for test, measured in found["measured"].items():
            if measured["why"]:
                left_out[test] = measured["why"]
            else:
                cost[test] = measured["cpu_s"]
        for module, by_line in found["lines"].items():
            for line, names in by_line.items():
                lines[module].setdefault(int(line), []).extend(names)
    return Covered(cost, left_out, lines)
