"""The scripts that ``audit --scripts`` writes: of the call that is blamed, and of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.auditing.run import Audit
from harness.auditing.text import first_of_each
from harness.script.call_script import NoScriptError, call_script
from harness.script.model_script import model_script
from harness.script.package import Package
from harness.support.files import write_atomically
from harness.support.scripts import Showing, run_script

_SECONDS = 300


def written(
    audits: Sequence[Audit],
    folder: Path,
    package: Callable[[Audit], Package],
    arguments: list[str],
    seed: int,
    *,
    compiled: bool,
) -> Iterator[str]:
    """Write the scripts of the first audit of each configuration and cause into ``folder`` and run
    each, with the ``arguments`` that a model's takes; lines that say what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for audit in first_of_each(audits):
        stem = "-".join([*audit.configuration.split("/"), audit.scenario.name])
        if audit.blame is not None:
            file = folder / f"{stem}-call.py"
            try:
                write_atomically(file, call_script(audit))
                yield f"{file}: {_run(file, [], audit)}"
            except NoScriptError as reason:
                yield f"{file}: not written: {reason}"
        file = folder / f"{stem}-model.py"
        write_atomically(file, model_script(audit, package(audit), seed, compiled=compiled))
        yield f"{file}: {_run(file, arguments, audit)}"


def _run(file: Path, arguments: list[str], audit: Audit) -> str:
    """What the ending of a script says; it is run apart, as its reader would run it."""
    ran = run_script(file, *arguments, seconds=_SECONDS)
    if ran.showing is Showing.HANGS:
        return f"no exit code within {_SECONDS} s"
    if ran.showing is Showing.GONE:
        return "exit code 0: alone it does not show it"
    # A call that is refused ends with its exception, which nobody caught.
    expected = "" if audit.blame is not None else "".join(audit.refusal.split(": ")[1:2])
    raised = ran.raised.split(":")[0].split(".")[-1]
    if ran.code == 1 and raised == expected:
        return "exit code 1, so it shows it alone"
    return f"exit code {ran.ended}: {ran.raised}"
