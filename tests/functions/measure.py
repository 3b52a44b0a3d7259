"""``check`` at its defaults on each function, in processes of its own, as its users run it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from harness import cli
from tests.functions.entry import Entry

# A check that takes longer has no answer; a user would have given up.
PATIENCE = 300.0
_PASSED, _USAGE = 0, 2


@dataclass(frozen=True)
class Row:
    """What ``check`` said of a function.

    ``verdict`` is its first word, or "REFUSED" for exit code 2, or "NONE" after ``PATIENCE``.
    ``result`` is "caught", "misnamed" (a failure, but none that is right for this function, or
    without the words that belong to it), "missed" or "refused", and for a sound function "passed",
    "accused" or "refused". ``repro`` is the verdict of the printed command, or "". ``commit`` is
    that of the code that was measured.
    """

    name: str
    category: str
    result: str
    verdict: str
    seconds: float
    repro: str = ""
    case: str = ""
    evidence: str = ""
    commit: str = ""

    @property
    def shows_again(self) -> bool:
        """Whether the printed command fails as the check did."""
        return bool(self.repro) and self.repro == self.verdict


def judged(entry: Entry, code: int, verdict: str, text: str) -> str:
    """The ``result`` of a check that ended with exit code ``code``."""
    if code == _USAGE:
        return "refused"
    if entry.sound:
        return "passed" if code == _PASSED and verdict == "OK" else "accused"
    named = verdict in entry.verdicts and re.search(entry.says, text) is not None
    if named:
        return "caught"
    return "missed" if code == _PASSED else "misnamed"


def _command(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and stdout of ``python -m harness`` with these arguments, in this process."""
    out, err = folder / "stdout", folder / "stderr"
    with (
        out.open("w") as stdout,
        err.open("w") as stderr,
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            code = cli.main(arguments)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else _USAGE
    return code, out.read_text() or err.read_text()


def check(entry: Entry, name: str, folder: Path, options: Sequence[str] = ()) -> Row:
    """Check a function, then run the command that its answer ends with."""
    answer = folder / "answer.json"
    start = time.monotonic()
    code, text = _command(["check", entry.target, "--json", str(answer), *options], folder)
    seconds = round(time.monotonic() - start, 1)
    if code == _USAGE or not answer.exists():
        said = (text.strip().splitlines() or [""])[-1]
        result = judged(entry, code, "REFUSED", text)
        return Row(name, entry.category, result, "REFUSED", seconds, evidence=said)
    document = json.loads(answer.read_text())
    verdict = text.split()[0]
    again = ""
    if document["repro"]:
        answer.unlink()
        words = shlex.split(document["repro"])[3:]
        code_again, text_again = _command([*words, "--json", str(answer)], folder)
        again = "REFUSED" if code_again == _USAGE else text_again.split()[0]
    found = document["findings"]
    return Row(
        name,
        entry.category,
        judged(entry, code, verdict, text),
        verdict,
        seconds,
        again,
        document["case"] or "",
        found[0]["evidence"] if found else "",
    )


def measure(
    entries: Iterable[tuple[str, Entry]], jobs: int, options: Sequence[str] = ()
) -> Iterator[Row]:
    """Rows in the order in which they come, ``jobs`` at a time, by default without ``options``.

    Each check runs in a fork of this process, in a session of its own: Ctrl-C reaches this process,
    which then interrupts them and waits for their end.
    """
    waiting, running = list(entries), dict[int, tuple[str, Entry, Path, float]]()
    with tempfile.TemporaryDirectory() as place:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name, entry = waiting.pop(0)
                    folder = Path(place, name)
                    folder.mkdir()
                    running[_forked(entry, name, folder, options)] = (
                        name,
                        entry,
                        folder,
                        time.monotonic(),
                    )
                pid = _ended(running)
                name, entry, folder, start = running.pop(pid)
                file = folder / "row.json"
                if file.exists():
                    yield Row(**json.loads(file.read_text()))
                else:
                    seconds = round(time.monotonic() - start, 1)
                    result = "accused" if entry.sound else "missed"
                    yield Row(name, entry.category, result, "NONE", seconds)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGINT)
            for pid in running:
                os.waitpid(pid, 0)


def _forked(entry: Entry, name: str, folder: Path, options: Sequence[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        row = check(entry, name, folder, options)
        (folder / "row.part").write_text(json.dumps(dataclasses.asdict(row)))
        (folder / "row.part").rename(folder / "row.json")
    except KeyboardInterrupt:
        pass
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(0)


def _ended(running: dict[int, tuple[str, Entry, Path, float]]) -> int:
    """The next process that ends, by itself or since it has taken too long."""
    while True:
        for pid, (_, _, _, start) in running.items():
            if os.waitpid(pid, os.WNOHANG)[0]:
                return pid
            if time.monotonic() - start > PATIENCE:
                os.kill(pid, signal.SIGINT)
                os.waitpid(pid, 0)
                return pid
        time.sleep(0.05)
