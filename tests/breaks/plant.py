"""A copy of the checkout, a break planted in it, and what its tests say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

from tests.breaks.table import Break
from tests.support import ROOT
from tests.support.day import VARIABLE

# The same part of the tests and the same draws whenever a break is planted.
DATE = "2026-11-30"
# Only a break that hangs takes so many seconds.
LIMIT = 900


class Unplantable(ValueError):
    """A break that cannot be planted, or whose tests are red without it; the message says why."""


def broken(one: Break, root: Path = ROOT) -> str:
    """The text of the break's file with the break in it.

    Raises:
        Unplantable: where what it replaces is not there exactly once.
    """
    file = root / one.file
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if (count := text.count(one.old)) != 1:
        raise Unplantable(f"{one.name}: {one.file} has {one.old!r} {count} times, not once")
    return text.replace(one.old, one.new)


def judged(breaks: Iterable[Break], root: Path = ROOT) -> Iterator[tuple[Break, str, float]]:
    """Each break with the test that failed first, or "", and the seconds that its tests took.

    Raises:
        Unplantable: where a break cannot be planted, before anything runs, and where tests are red
            without a break.
    """
    texts = [(one, broken(one, root)) for one in breaks]
    with _copied(root) as folder:
        tests = dict.fromkeys(test for one, _ in texts for test in one.tests)
        code, said = _ran(folder, tests)
        if code != 0:
            raise Unplantable(f"the tests are not green without a break:\n{said}")
        for one, text in texts:
            file = folder / one.file
            sound, start = file.read_bytes(), time.monotonic()
            _write(file, text.encode())
            code, said = _ran(folder, one.tests)
            _write(file, sound)
            failed = (line for line in said.splitlines() if line.startswith("FAILED "))
            test = next(failed, "").removeprefix("FAILED ").partition(" - ")[0]
            yield one, test if code == 1 else "", time.monotonic() - start


@contextmanager
def _copied(root: Path) -> Iterator[Path]:
    """The checkout as it lies there, without what git ignores, in a folder of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise Unplantable(f"{root} is no checkout: {listed.stderr.strip()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkout")
        for file in filter(None, listed.stdout.split("\0")):
            if (root / file).is_file():  # One that was deleted is still listed.
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / file, folder / file)
        yield folder


def _write(file: Path, text: bytes) -> None:
    """Replace a file, so that no bytecode of the one before stands for it."""
    file.write_bytes(text)
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


def _ran(folder: Path, tests: Iterable[str]) -> tuple[int | None, str]:
    """The exit code of pytest, or None where it did not end, and what it printed."""
    environment = {
        n: v for n, v in os.environ.items() if not n.startswith(("HYPOTHESIS", "PYTEST"))
    }
    # Processes that the tests start import the copy, too.
    environment |= {VARIABLE: DATE, "CI": "1", "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        ran = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"not ended after {LIMIT} s"
    return ran.returncode, ran.stdout
