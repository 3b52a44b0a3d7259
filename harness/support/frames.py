"""Frames of a traceback: which one tells a user where their own code failed."""

from __future__ import annotations

import sysconfig
import traceback
import types
from collections.abc import Sequence
from pathlib import Path

# File, line and function of a frame.
Frame = tuple[str, int, str]

_PACKAGE = f"{Path(__file__).resolve().parents[1]}/"
_LIBRARIES = tuple(
    f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
# Of any environment, whose packages another one may use.
_INSTALLED = "/site-packages/"


def where(frames: Sequence[Frame]) -> str:
    """The place in the user's own code, `` (mine.py, line 3, in decode)``, or "" where there is no
    frame outside this package; ``frames`` are given from the outermost to the innermost.

    That is the innermost frame in no library. Where all of the user's code is in libraries it is
    the innermost one in the file that this package called.
    """
    outside = [frame for frame in frames if not frame[0].startswith((_PACKAGE, "<"))]
    if not outside:
        return ""
    own = [f for f in outside if not f[0].startswith(_LIBRARIES) and _INSTALLED not in f[0]]
    called = [frame for frame in outside if frame[0] == outside[0][0]]
    file, line, function = (own or called)[-1]
    within = "" if function == "<module>" else f", in {function}"
    return f" ({Path(file).name}, line {line}{within})"


def raised_at(error: BaseException) -> str:
    """Where in the user's own code an exception was raised, see ``where``."""
    frames = traceback.extract_tb(error.__traceback__)
    return where([(frame.filename, frame.lineno or 0, frame.name) for frame in frames])


def innermost(error: BaseException) -> str:
    """The innermost frame of this package in which an exception was raised,
    `` (harness/oracle/golden.py, line 3)``, or "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    if not own:
        return ""
    file = Path(own[-1].filename).relative_to(Path(_PACKAGE).parent)
    return f" ({file}, line {own[-1].lineno})"


def users_own(error: BaseException) -> BaseException:
    """The exception, its traceback from the first frame on that is not this package's; one that
    this package raised stays as it is."""
    trace = error.__traceback__
    while trace is not None and _ours(trace.tb_frame):
        trace = trace.tb_next
    return error if trace is None else error.with_traceback(trace)


def internal(error: BaseException) -> bool:
    """Whether an exception is a fault of this package: none that it raises for a user to read, and
    none that came out of a user's code."""
    own = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if _ours(frame) or not frame.f_code.co_filename.startswith(("<", *_LIBRARIES))
    ]
    if not own or not _ours(own[-1]) or isinstance(error, ValueError):
        return False
    return not (isinstance(error, AssertionError) and "__tracebackhide__" in own[-1].f_locals)


def _ours(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("harness.")
