"""What the pages quote: commands, install lines and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "FINDINGS.md", *sorted((ROOT / "docs").glob("*.md"))]


def _pieces(page: Path) -> Iterator[str]:
    """Code spans, on one line each, and then the lines outside of them."""
    text = re.sub(r"^ *```\w*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for span in re.findall(r"`([^`]*)`", text):
        yield " ".join(span.split())
    yield from re.sub(r"`[^`]*`", "", text).splitlines()


def commands() -> dict[str, list[str]]:
    """What is quoted after ``python -m harness``, with the names of the pages, without comments."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for piece in _pieces(page):
            if match := re.search(r"python -m harness\b(.*)", piece):
                words = re.sub(r"\s+# .*", "", match[1]).strip()
                found.setdefault(words, []).append(page.name)
    return found


def extras() -> list[str]:
    """What the pages' lines that install an extra ask pip for, each once."""
    texts = (page.read_text(encoding="utf-8") for page in PAGES)
    return sorted({x for text in texts for x in re.findall(r"'(flexdecode-harness\[\w+\])'", text)})


def torch_version() -> str:
    """The torch that the README's line installs beside the clone."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (version,) = set(re.findall(r"pip install torch==(\S+) \.(?= )", text))
    return version


def code(page: str, holding: str) -> str:
    """The one block of Python of a page that holds this text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if holding in b]
    return block
