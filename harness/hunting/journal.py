"""The journal of a hunt: what was judged and found, a line for each, so that nothing is lost when
it stops, and it can go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.hunting.failure import Found
from harness.support.files import UnwritableFile
from harness.support.strict_json import from_text, to_line


class JournalError(ValueError):
    """A file that is no journal, or one of another hunt; the message says what is wrong."""


class Journal:
    """Lines of a file, each a JSON object whose ``kind`` says what it is: the hunt's ``settings``,
    a geometry that was ``judged``, what was ``found``.

    Raises:
        JournalError: where the file is there and ``resume`` is not set, or the other way round, or
            the settings in it are others.
    """

    def __init__(self, file: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self._file = file
        if not resume:
            if file.exists():
                raise JournalError(
                    f"{file}: is there; --resume goes on with it, --out names another"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            self.add("settings", settings)
            return
        before = next((line for line in self.lines() if line["kind"] == "settings"), None)
        if before is None:
            raise JournalError(f"{file}: --resume, but there is no journal")
        del before["kind"]
        for name, value in settings.items():
            if before.get(name) != value:
                raise JournalError(f"{file}: has {name} {before.get(name)!r}, not {value!r}")

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """Append a line, which is on disk afterwards; one that was cut off before it stays apart.

        Raises:
            UnwritableFile: where the system refuses.
        """
        line = to_line({"kind": kind, **values}).encode() + b"\n"
        try:
            with self._file.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read() == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnwritableFile(f"{self._file}: {error.strerror}") from None

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines, but for one that was cut off."""
        if not self._file.exists():
            return
        for text in self._file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = from_text(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "kind" in line:
                yield line

    def found(self) -> list[Found]:
        """What was found, of each failure its last line."""
        latest: dict[str, Found] = {}
        for line in self.lines():
            if line.pop("kind") == "found":
                one = Found.from_values(line)
                latest[one.key] = one
        return list(latest.values())
