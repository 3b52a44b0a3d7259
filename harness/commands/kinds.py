"""Which command takes a word of the command line: a function, a script, a case id or a project."""

from __future__ import annotations

import re

from harness.case import CaseError, DecodeCase, InvalidCase
from harness.commands.options import UsageError

PROJECTS = ("transformers", "gpt-fast")
REPORT = "gpt-fast-233"
_TARGET = re.compile(r"(?:.+\.py|[A-Za-z_][\w.]*):[A-Za-z_][\w.]*")
_COMMAND = "python -m harness"
_TAKES = {
    "check": "package.module:NAME or path/to/file.py:NAME",
    "repro": f"a case id, or {REPORT}",
    "audit": f"{' or '.join(PROJECTS)}, or path/to/SCRIPT.py",
}


def refuse_other_kinds(command: str, word: str) -> None:
    """Raise where another command than ``command`` takes the word.

    Raises:
        UsageError: what the word is, and the command that takes it.
    """
    found = _kind(word)
    if found is not None and found[1] != command:
        what, other, written = found
        raise UsageError(
            f"{word!r} is {what} {other} takes: {_COMMAND} {other} {written}"
            f" ({command} takes {_TAKES[command]})"
        )


def _kind(word: str) -> tuple[str, str, str] | None:
    """What a word is, the command that takes it and how it is written there."""
    checkout = " --checkout DIR" if word == "gpt-fast" else ""
    kinds = (
        (word in PROJECTS, "a project, which", "audit", f"{word}{checkout}"),
        (word == REPORT, "a bug report, which", "repro", word),
        (word.endswith(".py") and "=" not in word, "a script, which", "audit", word),
        (_TARGET.fullmatch(word), "a function or class, which", "check", word),
        (_is_case(word), "a case id, which", "repro", f"'{word}'"),
        (
            re.fullmatch(r"[A-Za-z_][\w.]*", word),
            "perhaps a package, whose functions",
            "check",
            f"{word}:NAME",
        ),
    )
    return next(((what, other, as_is) for fits, what, other, as_is in kinds if fits), None)


def _is_case(word: str) -> bool:
    try:
        DecodeCase.from_text(word)
    except InvalidCase:
        return True
    except CaseError:
        return re.match(r"\w+=\S", word) is not None
    return True
