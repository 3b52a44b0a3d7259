"""Standard output and error: a reader that leaves, or a disk that fills, does not end the work."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Descriptor(io.FileIO):
    """A file descriptor that drops what cannot be written, and keeps the reason in ``failure``,
    except where the reader has left."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            # Child processes inherit the descriptor, and so does what Python flushes at its end.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


@contextlib.contextmanager
def lasting_streams() -> Iterator[list[str]]:
    """Within it ``sys.stdout`` and ``sys.stderr`` take all that is written to them; after it the
    list says what was lost and why, ``standard output: No space left on device``.

    A pipe whose reader has left, as ``| head`` does, loses nothing that anybody wants.
    """
    lost: list[str] = []
    opened = []
    for name, what in (("stdout", "standard output"), ("stderr", "standard error")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell; a file opened later would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            continue
        stream.flush()
        raw = _Descriptor(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering or name == "stderr",
        )
        setattr(sys, name, lasting)
        opened.append((what, raw, lasting))
    try:
        yield lost
    finally:
        for what, raw, lasting in opened:
            lasting.flush()
            if raw.failure is not None:
                lost.append(f"{what}: {raw.failure.strerror}")
