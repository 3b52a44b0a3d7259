"""The picture that ``check --plot`` writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from harness.commands.options import UsageError
from harness.function.search import SearchResult
from harness.support.files import write_atomically


def require_matplotlib(file: Path | None) -> None:
    """Before the work, not after it, where a picture is wanted.

    Raises:
        UsageError: where matplotlib is not here.
    """
    if file is not None and not _here("matplotlib", "PIL"):
        raise UsageError("--plot: needs matplotlib: pip install 'flexdecode-harness[figures]'")


def _here(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def write_plot(file: Path | None, result: SearchResult) -> None:
    """Write the picture of what the worst row attends, where one is wanted, or say why there is
    none."""
    if file is None:
        return
    weights = result.outcome.weights
    if result.item is None or weights is None:
        what = "nothing failed" if result.item is None else "no weights could be read off"
        print(f"--plot: not written: {what}", file=sys.stderr)
        return
    from harness.figures.effective import effective_picture

    write_atomically(file, effective_picture(f"{result.spec.target} on {result.case}", weights))
