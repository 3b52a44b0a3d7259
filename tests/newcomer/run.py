"""Running the table: each command in a process of its own, in a folder that is not the clone."""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.newcomer import quotes
from tests.newcomer.table import TABLE, USAGE, Run

NAME = "flexdecode-harness"
# What an environment has before anything is installed.
_SEEDS = {"pip", "setuptools", "wheel", NAME}
_LIMIT = 1200  # seconds of one command
_NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def main() -> int:
    """Run by day, or by day and night, and return the exit code."""
    wrong = [*differences(), *_superfluous()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _files(folder)
        by_day = [(row.day, row.quoted) for row in TABLE if row.day]
        wrong += _all_of(by_day, Path(sys.executable), folder)
        if _NIGHT:
            shutil.copytree(quotes.ROOT / "fixtures", folder / "fixtures")
            by_night = [(row.night, row.quoted) for row in TABLE if row.night]
            wrong += _all_of(by_night, _with_extras(folder / ".venv"), folder)
    print(*wrong, sep="\n", file=sys.stderr)
    print(f"{len(wrong)} wrong", file=sys.stderr)
    return 1 if wrong else 0


def differences() -> Iterator[str]:
    """What stands on a page or in the table alone."""
    quoted, rows = quotes.commands(), [row.quoted for row in TABLE]
    for words in [w for w in quoted if w not in rows]:
        yield f"{', '.join(quoted[words])}: not in tests/newcomer/table.py: {words}"
    yield from (f"quoted on no page: {words}" for words in rows if words not in quoted)
    yield from (f"twice in the table: {words}" for words in {r for r in rows if rows.count(r) > 1})
    for row in TABLE:
        if not (row.day or row.night or row.reason):
            yield f"neither run nor a reason: {row.quoted}"


def _superfluous() -> Iterator[str]:
    """What is installed here that the README's line does not install."""
    here = {_plain(found.name) for found in importlib.metadata.distributions()}
    yield from (f"not bare: {name} is installed" for name in sorted(here - needed()))
    torch = importlib.metadata.version("torch").partition("+")[0]
    if torch != quotes.torch_version():
        yield f"torch {torch} is here, the README installs {quotes.torch_version()}"


def needed() -> set[str]:
    """The packages that the README's line installs, of those that are here, and what was there
    before it."""
    found, pending = set(_SEEDS), ["torch"]
    while pending:
        name = _plain(pending.pop())
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            pending += [re.split(r"[^\w.-]", r)[0] for r in requires if "extra ==" not in r]
    return found


def superfluous_modules() -> list[str]:
    """The modules, by their first name, of all packages here that are not ``needed``."""
    of, needs = importlib.metadata.packages_distributions(), needed()
    return sorted(module for module in of if needs.isdisjoint(map(_plain, of[module])))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files(folder: Path) -> None:
    """What the commands read: the functions and classes of the pages."""
    decode = quotes.code("docs/check.md", 'decode.supports = {"ragged", "window"}')
    cache = "from harness.serving.caches import FixedPath as MyCache\n"
    shutil.copytree(quotes.ROOT / "examples", folder / "examples")
    (folder / "mine.py").write_text(decode + "\n\n" + cache, encoding="utf-8")


def _with_extras(folder: Path) -> Path:
    """The Python of an environment that the README's line has made, with the extras of the docs."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    torch = f"torch=={quotes.torch_version()}"
    subprocess.run([*pip, torch, "."], cwd=quotes.ROOT, check=True)
    for extra in quotes.extras():
        subprocess.run([*pip, extra], cwd=quotes.ROOT, check=True)
    return python


def _all_of(runs: list[tuple[Run, str]], python: Path, folder: Path) -> list[str]:
    """Run these commands, print a line for each, and return what came out otherwise."""
    wrong, before = [], _cpu()
    for run, quoted in runs:
        words, start = run.words or quoted, _cpu()
        done = subprocess.run(
            [python, "-m", "harness", *shlex.split(words)],
            cwd=folder,
            env=_environment(folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT,
        )
        said = list(_otherwise(run, words.split()[0], done))
        wrong += [f"python -m harness {words}: {line}" for line in said]
        state = "differs" if said else "ok"
        print(f"{state:8}{_cpu() - start:6.1f} CPU s  {done.returncode}  {words}", flush=True)
    print(f"{len(runs)} commands, {_cpu() - before:.0f} CPU seconds", flush=True)
    return wrong


def _otherwise(run: Run, command: str, done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """How a command ended otherwise than the table says."""
    if done.returncode != run.code:
        yield f"exit code {done.returncode}, not {run.code}; stderr ends\n{done.stderr[-2000:]}"
    if run.code == USAGE:
        # Lines of progress begin with the time.
        errors = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        if errors != [f"harness {command}: error: {run.says}"] or done.stdout:
            yield f"said {errors} and {done.stdout!r}, not {run.says!r} alone"
    elif not done.stdout.startswith(run.says):
        yield f"began with {done.stdout[:200]!r}, not with {run.says!r}"
    if "Traceback" in done.stderr:
        yield f"a traceback:\n{done.stderr[-2000:]}"


def _environment(folder: Path) -> dict[str, str]:
    """That of a stranger, who runs no CI and whose home is empty."""
    away = ("CI", "PYTHON", "HYPOTHESIS", "PYTEST", "TOX")
    return {k: v for k, v in os.environ.items() if not k.startswith(away)} | {"HOME": str(folder)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
