"""Text for a terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, whose first column is aligned to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def version_order(version: str) -> tuple[int, ...]:
    """What versions such as ``2.13.0`` are sorted by."""
    return tuple(int(part) for part in version.partition("+")[0].split(".") if part.isdigit())


def not_one_of(given: object, forms: Iterable[str]) -> str:
    """``'gqu' is not one of gqa ragged; did you mean gqa?``, which asks only where a word is alike.

    A form is a word, or a word with arguments such as ``window:W``.
    """
    forms = list(forms)
    word, words = str(given).partition(":")[0], [form.partition(":")[0] for form in forms]
    alike = [] if word in words else difflib.get_close_matches(word, words, 1)
    hint = f"; did you mean {alike[0]}?" if alike else ""
    return f"{given!r} is not one of {' '.join(forms)}{hint}"
