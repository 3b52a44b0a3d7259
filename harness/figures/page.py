"""The figures as one HTML file that embeds its pictures, loads nothing and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from harness.figures.captions import Caption

# With this policy the browser shows nothing that is not in the file, and runs nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --text: #111; --page: #fff; --soft: #444; --link: #0b4f8a;
  --line: #ccc; --code: #f4f4f4; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #16181b; --soft: #b4b4b4; --link: #8cc4ff;
    --line: #44484d; --code: #24272b; }
}
body { margin: 0 auto; max-width: 60rem; padding: 1rem; color: var(--text);
  background: var(--page); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .5rem; }
a { color: var(--link); }
figure { margin: 1rem 0 .5rem; }
/* Pictures are drawn on white, in a dark page on a card of it. */
img { display: block; max-width: 100%; height: auto; margin: 0 auto; box-sizing: border-box;
  background: #fff; padding: .5rem; border-radius: .4rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
.missing { border: 2px dashed var(--soft); padding: 1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; padding: .4rem 0; }
pre { background: var(--code); padding: .6rem; overflow-x: auto; }
@media print { section { break-inside: avoid; } img { max-height: 20cm; width: auto; } }
"""


@dataclass(frozen=True)
class Section:
    """A figure's caption and its pictures as PNG bytes; without pictures the caption says why."""

    name: str
    caption: Caption
    wide: bytes | None = None
    narrow: bytes | None = None


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    environment: dict[str, str | int | bool],
    date: str,
    commands: Sequence[str],
) -> str:
    """The whole HTML document.

    Args:
        lead: a paragraph that says what the page is about.
        environment: what the numbers depend on, by name.
        commands: the commands that make the page, and what it shows, again.
    """
    contents = "".join(
        f'<li><a href="#{escape(s.name)}">{escape(s.caption.title)}</a></li>' for s in sections
    )
    facts = tuple((name, str(value)) for name, value in environment.items())
    lines = "\n".join(commands)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n"
        f'<nav aria-label="Figures"><ol>{contents}</ol></nav>\n'
        f"{''.join(_section(s) for s in sections)}"
        '<section id="made"><h2>How this page was made</h2>\n'
        f"<p>{escape(date)}</p>\n{_table(('environment', 'value'), facts, 'Environment')}\n"
        f"<p>Commands, in the project's folder:</p><pre>{escape(lines)}</pre></section>\n"
        "</main></body></html>\n"
    )


def _section(section: Section) -> str:
    words = section.caption
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(words.title)}</h2>\n'
        + (f"<p>{escape(words.seen)}</p>\n" if words.seen else "")
        + _figure(section)
        + (
            "<details><summary>The numbers</summary>"
            f"{_table(words.header, words.rows, words.title)}</details>"
            if words.rows
            else ""
        )
        + "</section>\n"
    )


def _figure(section: Section) -> str:
    words = section.caption
    if section.wide is None or section.narrow is None:
        return f'<p class="missing">{escape(words.empty)}</p>\n'
    return (
        '<figure><picture><source media="(max-width: 600px)"'
        f' srcset="{_data(section.narrow)}">'
        f'<img alt="{escape(words.alt)}" src="{_data(section.wide)}"></picture>'
        f"<figcaption>{escape(words.how)}</figcaption></figure>\n"
    )


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    # The table can have the focus, so that a wide one can be scrolled by keyboard.
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
