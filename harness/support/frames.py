"""Frames of a traceback: which one tells a user where their own code failed."""

from __future__ import annotations

import sysconfig
import traceback
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
