"""``python -m harness audit SCRIPT.py [ARGS]``: a script is run, its attention calls judged."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.options import INCOMPLETE, INTERRUPTED, NOT_OK, OK, USAGE, UsageError
from harness.support.files import write_atomically

if TYPE_CHECKING:
    from harness.auditing.report import Report

_INTERRUPTED = "interrupted"
_PACKAGE = str(Path(__file__).resolve().parents[1])


def audit_script(script: str, arguments: list[str], json: Path | None) -> int:
    """Run the script with these arguments, print what its calls showed and return the exit code."""
    if not Path(script).is_file():
        raise UsageError(f"TARGET: {script}: there is no such file")

    from harness import audit
    from harness.support.environment import environment
    from harness.support.strict_json import to_text

    with audit() as report:
        ended = _run(script, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    code = _code(report, ended)
    print(f"\n{_ending(ended)}{report}")
    if json is not None:
        told = {"script": script, "arguments": arguments, "ended": ended, "exit_code": code}
        write_atomically(json, to_text(told | report.to_values() | {"versions": environment()}))
    return code


def _run(script: str, arguments: list[str]) -> str:
    """What the script ended with, "" for its last line; it is run as ``python SCRIPT.py`` would."""
    before = sys.argv, sys.path[:], sys.modules["__main__"]
    sys.argv = [script, *arguments]
    sys.path[0:0] = [os.path.dirname(os.path.realpath(script))]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ending:
        if ending.code is None or ending.code == 0:
            return ""
        if not isinstance(ending.code, int):
            print(ending.code, file=sys.stderr)
        return f"sys.exit({ending.code!r})"
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BaseException as error:
        _show(error)
        return type(error).__name__
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = before
    return ""


def _show(error: BaseException) -> None:
    """The traceback as Python prints it, from the script's own frames on."""
    told = traceback.TracebackException.from_exception(error)
    inner: Any = told
    while inner is not None:
        frames = [f for f in inner.stack if not _ours(f.filename)]
        inner.stack = traceback.StackSummary.from_list(frames)
        inner = inner.__cause__ or inner.__context__
    print("".join(told.format()), end="", file=sys.stderr)


def _ours(file: str) -> bool:
    return file.startswith((_PACKAGE, "<frozen runpy>"))


def _ending(ended: str) -> str:
    if not ended:
        return ""
    if ended == _INTERRUPTED:
        return "the script was interrupted; what it called before:\n"
    what = ended if ended.startswith("sys.exit") else f"an uncaught {ended}"
    return f"the script ended with {what}; what it called before:\n"


def _code(report: Report, ended: str) -> int:
    if ended == _INTERRUPTED:
        return INTERRUPTED
    if report.blame is not None:
        return NOT_OK
    if not report.judged:
        return USAGE
    raised = bool(ended) and not ended.startswith("sys.exit")
    return OK if report.complete and not raised else INCOMPLETE
