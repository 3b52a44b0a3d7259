"""The figures as files: an HTML page with everything in it, its pictures as PNGs, and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.figures.captions import caption
from harness.figures.page import Section, page
from harness.figures.plots import draw
from harness.figures.values import Figure, as_plain, name_of
from harness.support.environment import environment
from harness.support.files import UnwritableFile, write_atomically
from harness.support.progress import Progress
from harness.support.strict_json import to_line

PAGE, DATA = "figures.html", "figures.json"
TITLE = "KV-cache decoding with FlexAttention: what was measured"
LEAD = (
    "gpt-fast#233 reports that decoding with flex_attention over the whole KV cache is off by"
    " 101 % from decoding over a sliced cache. This page shows which of the two is wrong, and how"
    " far every decode path is from attention in float64."
)


def publish(
    figures: Sequence[Figure], device: str, commands: Sequence[str], progress: Progress
) -> dict[str, str | bytes]:
    """Draw the figures: the content of each file by name, the page last.

    Args:
        commands: the commands that made the figures, for the end of the page.
    """
    files: dict[str, str | bytes] = {}
    sections = []
    for figure in figures:
        name, words = name_of(figure), caption(figure)
        section = Section(name, words)
        if not words.empty:
            progress(f"drawing {name}")
            section = Section(name, words, draw(figure), draw(figure, narrow=True))
            assert section.wide is not None and section.narrow is not None
            files[f"{name}.png"] = section.wide
            files[f"{name}-narrow.png"] = section.narrow
        sections.append(section)
    facts = environment(device)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    document = {"date": date, "environment": facts, "figures": as_plain(figures)}
    files[DATA] = to_line(document) + "\n"
    files[PAGE] = page(TITLE, LEAD, sections, facts, date, commands)
    return files


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write every file into ``folder``, which is made where it is missing; no file is half-written.

    Raises:
        UnwritableFile: where the folder or a file cannot be written; the message has the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFile(f"{folder}: {error.strerror}") from None
    for name, content in files.items():
        write_atomically(folder / name, content)
