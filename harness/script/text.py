"""The text of a standalone script: its head, its imports, and lines that black would not change.

Black is not needed to write a script: a statement that may be too long for a line is written here
in the other form that black keeps.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator

from harness.case import DecodeCase
from harness.case.program import Program
from harness.support.environment import environment, one_line

# This is black's line length, so that ``black script.py`` has nothing to do.
WIDTH = 88
_STDLIB = (
    "ctypes",
    "faulthandler",
    "importlib",
    "math",
    "os",
    "resource",
    "runpy",
    "subprocess",
    "sys",
    "types",
    "zlib",
)
_FLEX = ("AuxRequest", "BlockMask", "create_block_mask", "flex_attention")


def script(title: str, case: DecodeCase | Program | None, device: str, body: Iterable[str]) -> str:
    """A whole script with the statements ``body``; the title says what its exit code means."""
    text = "\n".join(body) + "\n"
    head = [
        f'"""{title}',
        *([] if case is None else [f"Case: {case}"]),
        *textwrap.wrap(f"Written with {one_line(environment(device))}.", WIDTH),
        '"""',
        "",
        *(f"import {name}" for name in _STDLIB if re.search(rf"\b{name}\.", text)),
        "",
        "import torch",
    ]
    # In quotation marks it is a word of transformers.
    names = [name for name in _FLEX if re.search(rf"(?<!\")\b{name}\b", text)]
    if names:
        start = "from torch.nn.attention.flex_attention import "
        line = start + ", ".join(names)
        head += [line] if len(line) <= WIDTH else bracketed(f"{start}(", names, ")")
    return "\n".join(head) + "\n\n" + text


def bracketed(start: str, items: list[str], end: str) -> Iterator[str]:
    """A statement of ``start``, items and ``end``, on one line or with one item on each line."""
    line = f"{start}{', '.join(items)}{end}"
    if len(line) <= WIDTH:
        yield line
        return
    yield start
    yield from (f"    {item}," for item in items)
    yield end


def indented(lines: Iterable[str]) -> Iterator[str]:
    """The lines one level deeper."""
    yield from (f"    {line}" if line else "" for line in lines)


def added(name: str, terms: list[str]) -> Iterator[str]:
    """Statements that set ``name`` to the sum of the terms, as many on a line as fit."""
    line = f"{name} = {terms[0]}"
    for term in terms[1:]:
        if len(f"{line} + {term}") > WIDTH:
            yield line
            line = name + " = " + name
        line += f" + {term}"
    yield line


def laid_out(name: str, expression: str, indent: str = "") -> Iterator[str]:
    """Statements that replace ``name`` by the expression, which speaks of x."""
    if expression != "x":
        yield f"{indent}x = {name}"
        yield f"{indent}{name} = {expression}"


def both(names: str, expression: str, of: str = "key, value", indent: str = "") -> Iterator[str]:
    """The statement ``names = (expression for x in (key, value))``, on one line or on several."""
    loop = f"for x in ({of})"
    line = f"{indent}{names} = ({expression} {loop})"
    if len(line) <= WIDTH:
        yield line
        return
    yield f"{indent}{names} = ("
    line = f"{indent}    {expression} {loop}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"{indent}    {expression}"
        yield f"{indent}    {loop}"
    yield f"{indent})"


def integers(name: str, values: tuple[int, ...]) -> Iterator[str]:
    """Statements that set ``name`` to an int64 tensor of these values."""
    line = f"{name} = torch.tensor({list(values)})"
    if values and len(line) <= WIDTH:
        yield line
    elif len(set(values)) <= 1:
        yield f"{name} = torch.full(({len(values)},), {values[0] if values else 0})"
    else:
        rows = textwrap.wrap(", ".join(map(str, values)), WIDTH - len(f"{name} += []"))
        for index, row in enumerate(rows):
            yield f"{name} {'+=' if index else '='} [{row.rstrip(',')}]"
        yield f"{name} = torch.tensor({name})"


def quoted(text: str) -> str:
    """A string literal as black writes it."""
    return json.dumps(text, ensure_ascii=False)
