"""pytest in a fork of this process, on a copy of the checkout.

The process has imported torch, pytest and Hypothesis, and nothing of the copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis.stateful
import hypothesis.strategies  # noqa: F401  (for the forks)
import pytest
import torch._dynamo
import torch.nn.attention.flex_attention
from hypothesis import Phase, settings

from tests.mutation import DAY, ROOT

OURS = ("harness", "tests", "conftest")
# Seconds of wall after which a fork is stuck, whatever else the machine does.
PATIENCE = 900
# What a fork may take beyond what the process has: a mutant can ask for any amount.
MEMORY = 8 * 2**30
OPTIONS = [
    *("-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-p", "no:benchmark", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
]


class OverTime(BaseException):
    """A test has used its seconds; no Exception, so that neither judge nor Hypothesis takes it."""


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A copy of the checkout's files, those that git tracks or would."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in filter(None, names.split("\0")):
            source, target = ROOT / name, Path(folder, name)
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())
        yield Path(folder).resolve()


class Plugin:
    """Runs the tests that it is given, in their order, and keeps what came of each."""

    def __init__(self, tests: list[str] | None = None) -> None:
        self.tests = tests
        self.failed: list[str] = []

    def pytest_sessionstart(self) -> None:
        """Find a failing example, and spend nothing on a smaller one."""
        phases = (Phase.explicit, Phase.generate)
        parent = settings.get_profile("ci")
        settings.register_profile("mutants", parent, phases=phases, report_multiple_bugs=False)
        settings.load_profile("mutants")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Those chosen, in their order."""
        if self.tests is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[test] for test in self.tests if test in by_name]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """What cannot be imported any more."""
        if report.failed:
            self.failed.append(f"collecting {report.nodeid}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The tests that fail."""
        if report.failed and report.nodeid not in self.failed:
            self.failed.append(report.nodeid)


def fork(copy: Path, plugin: Any, arguments: list[str], cpu_s: float) -> dict[str, Any]:
    """What pytest comes to in a fork: ``code`` (negative for a signal), ``cpu_s``, and the plugin's
    attributes, which are values of JSON."""
    with tempfile.NamedTemporaryFile() as told:
        child = os.fork()
        if child == 0:
            _become(copy, plugin, arguments, cpu_s, told.name)
        try:
            _, status, used = os.wait4(child, 0)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        said = json.loads(told.read() or "{}")
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "cpu_s": used.ru_utime + used.ru_stime, **said}


def _become(copy: Path, plugin: Any, arguments: list[str], cpu_s: float, told: str) -> NoReturn:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        signal.alarm(PATIENCE)
        used = time.process_time()
        most = int(used + cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for name in [n for n in sys.modules if n.partition(".")[0] in OURS]:
            del sys.modules[name]
        sys.path[:] = [str(copy), *(p for p in sys.path if p and Path(p).resolve() != ROOT)]
        os.chdir(copy)
        os.environ.pop("CI", None)
        os.environ.update(HARNESS_DATE=DAY, HYPOTHESIS_PROFILE="ci")
        torch.set_num_threads(1)
        sys.addaudithook(_refuse)
        code = int(pytest.main([*OPTIONS, *arguments], plugins=[plugin]))
        Path(told).write_text(json.dumps(vars(plugin)), encoding="utf-8")
    finally:
        os._exit(code)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """No process: the mutants are many, and a compiler or an interpreter takes seconds."""
    if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec"):
        raise FileNotFoundError("processes are not started here")
