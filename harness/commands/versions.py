"""``python -m harness versions``: in which versions of torch scripts show what they show, and what
has changed since an earlier run."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands.options import (
    INTERRUPTED,
    NOT_OK,
    OK,
    USAGE,
    UsageError,
    input_file,
    output_folder,
    seconds,
    sharing,
)
from harness.support.files import write_atomically
from harness.support.progress import Progress, progress_to_stderr
from harness.support.scripts import Showing, run_script
from harness.support.strict_json import parse, to_text
from harness.support.text import table

HERE = "here"
_ENVIRONMENTS = Path("~/.cache/flexdecode-harness/versions")
_TIMEOUT = 600.0
_WORDS = {True: "shows", False: "does not show", None: "not known"}


@dataclass(frozen=True)
class Ran:
    """What a script did with one version of torch: ``shows`` says whether it shows what it is
    about, or is None where that is not known. ``says`` is its last line, or why it was not run."""

    script: str
    torch: str
    shows: bool | None
    ended: str
    says: str


def add(commands: Any) -> None:
    """Add the subcommand to an argparse parser's subparsers."""
    parser = commands.add_parser(
        "versions",
        help="run scripts with several versions of torch, each in an environment of its own",
        description="A script shows something by exit code 1, or by a crash, and"
        " ends with 0 where it is fixed. pip installs each version as it is configured, which for"
        " CPU builds may need PIP_INDEX_URL.",
        parents=sharing("--json"),
    )
    parser.set_defaults(run=run)
    what = "each needs torch alone"
    parser.add_argument("scripts", type=input_file, nargs="+", metavar="SCRIPT", help=what)
    what = "a file that --json wrote: print what has changed, and exit with 1 for a change alone"
    parser.add_argument("--since", type=input_file, metavar="FILE", help=what)
    default = (HERE,)
    what = f"versions, or {HERE} for the torch of this Python (default)"
    parser.add_argument("--torch", type=_versions, default=default, metavar="VERSIONS", help=what)
    where = f"where the environments lie (default {_ENVIRONMENTS})"
    parser.add_argument("--environments", type=output_folder, metavar="DIR", help=where)
    limit = f"of one run (default {_TIMEOUT:g})"
    parser.add_argument("--timeout", type=seconds, default=_TIMEOUT, metavar="S", help=limit)


def _versions(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(",")))
    for version in found:
        if version != HERE and not re.fullmatch(r"\d+(\.\w+)*(\+\w+)?", version):
            raise ArgumentTypeError(f"{version!r} is not {HERE} or a version such as 2.13.0")
    return found


def run(arguments: argparse.Namespace) -> int:
    """Run the scripts with each version, print a table and return the exit code: 1 where one shows
    in one of them, or has changed, 2 where none could be run."""
    before = _earlier(arguments.since) if arguments.since else None
    folder = (arguments.environments or _ENVIRONMENTS).expanduser()
    rows: list[Ran] = []
    interrupted = False
    try:
        for ran in _all(arguments, folder, progress_to_stderr()):
            rows.append(ran)
    except KeyboardInterrupt:
        interrupted = True
    several = len(arguments.scripts) > 1
    head = ["torch", "", "ended with", "last line"]
    cells = [[_label(r.torch), _WORDS[r.shows], r.ended, r.says[:70]] for r in rows]
    if several:
        head = ["script", *head]
        cells = [[r.script, *cell] for r, cell in zip(rows, cells, strict=True)]
    print(*table(head, cells), sep="\n")
    for script in dict.fromkeys(r.script for r in rows):
        for shows, what in ((True, "Shows in"), (False, "does not show in")):
            of = [r.torch for r in rows if r.shows is shows and r.script == script]
            if of:
                print(f"{f'{script}: ' if several else ''}{what}: torch {', '.join(of)}")
    if arguments.json is not None:
        document = {"versions": [vars(r) for r in rows]}
        write_atomically(arguments.json, to_text(document, 1))
    if interrupted:
        return INTERRUPTED
    if all(r.shows is None for r in rows):
        return USAGE
    if before is None:
        return NOT_OK if any(r.shows for r in rows) else OK
    changes = list(_changes(before, rows))
    print(*changes or ["nothing has changed"], sep="\n")
    return NOT_OK if changes else OK


def _label(version: str) -> str:
    if version != HERE:
        return version
    try:
        return f"{HERE} ({importlib.metadata.version('torch')})"
    except importlib.metadata.PackageNotFoundError:
        return HERE


_Shown = dict[tuple[str, str], bool | None]


def _earlier(file: Path) -> _Shown:
    """What scripts showed in an earlier run, by script and version."""
    try:
        rows = parse(file.read_text(encoding="utf-8"))["versions"]
        return {(row["script"], row["torch"]): row["shows"] for row in rows}
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--since: {file}: is not what --json writes") from None


def _changes(before: _Shown, rows: list[Ran]) -> Iterator[str]:
    """What shows otherwise than before, and what is new or gone; nothing for what is not known."""
    now: _Shown = {(r.script, r.torch): r.shows for r in rows}
    for key, shows in now.items():
        where = f"{key[0]}, torch {_label(key[1])}"
        if key not in before:
            yield f"new: {where}: {_WORDS[shows]}"
        elif None not in (shows, before[key]) and shows != before[key]:
            yield f"changed: {where}: {_WORDS[shows]}, before it: {_WORDS[before[key]]}"
    yield from (f"gone: {script}, torch {torch}" for script, torch in before.keys() - now.keys())


def _all(arguments: argparse.Namespace, folder: Path, progress: Progress) -> Iterator[Ran]:
    names = {script: _name(script) for script in arguments.scripts}
    for version in arguments.torch:
        python, why = Path(sys.executable), ""
        if version != HERE:
            progress(f"torch {version}: environment")
            python, why = _environment(folder / f"torch-{version}", version)
        for script, name in names.items():
            progress(f"torch {version}: {script}")
            if why:
                yield Ran(name, version, None, "not run", why)
            else:
                yield _run(name, python, version, script, arguments.timeout)


def _name(script: Path) -> str:
    """A script's name; its folder's, where all scripts are called script.py."""
    return script.resolve().parent.name if script.name == "script.py" else script.name


def _environment(folder: Path, version: str) -> tuple[Path, str]:
    """The Python of an environment with this torch, which is made where it is not there, and why
    there is none, or ""."""
    python, done = folder / "bin" / "python", folder / "installed"
    if done.is_file():
        return python, ""
    folder.parent.mkdir(parents=True, exist_ok=True)
    install = [str(python), "-m", "pip", "install", "--quiet", f"torch=={version}"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            lines = [x for x in ran.stderr.splitlines() if x.startswith("ERROR")] or [ran.stderr]
            return python, lines[-1].strip()
    done.touch()
    return python, ""


def _run(name: str, python: Path, version: str, script: Path, timeout: float) -> Ran:
    other = None if version == HERE else python
    ran = run_script(script.resolve(), seconds=timeout, python=other)
    says = f"not within {timeout:g} s" if ran.showing is Showing.HANGS else ran.says
    known = {Showing.SHOWS: True, Showing.GONE: False}
    return Ran(name, version, known.get(ran.showing), ran.ended, says)
