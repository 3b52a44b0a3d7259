"""A failure of the harness itself, which is no verdict on anything."""

from __future__ import annotations

from harness.support.frames import innermost


class HarnessFailed(RuntimeError):
    """The harness failed in another process: the message is what ``described`` gave there, and its
    traceback is a note."""

    def __init__(self, line: str, trace: str) -> None:
        super().__init__(line)
        self.add_note(trace)


def described(error: BaseException) -> str:
    """An exception as one line, with the place in this package where it was raised."""
    if isinstance(error, HarnessFailed):
        return str(error)
    line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {line}{innermost(error)}"
