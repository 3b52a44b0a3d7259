"""The picture that ``check --plot`` writes."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.function.search import SearchResult
from harness.support.files import write_atomically


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
