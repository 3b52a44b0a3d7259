"""What the page of figures says and draws of values that are made up here."""

from __future__ import annotations

import dataclasses
import re

from harness.figures.captions import caption
from harness.figures.plots import draw
from harness.figures.publish import publish
from harness.figures.results import Results
from harness.figures.values import ErrorCurve, Errors, TimeCurve, Times, history


def test_the_spread_of_step_times_is_told_and_drawn() -> None:
    """Two sets of rounds with the same medians give two pictures."""
    curve = TimeCurve("fixed", "eager", (1.0, 2.0), (0.5, 1.5), (1.0, 4.0))
    times = Times("S=9,pos=3", "cpu", (0, 8), (curve,), "", 7, 5)
    assert caption(times).rows == (("0", "1 (0.5 to 1)"), ("8", "2 (1.5 to 4)"))
    calm = dataclasses.replace(curve, lower=(1.0, 2.0))
    assert draw(dataclasses.replace(times, curves=(calm,))) != draw(times)


def test_no_output_is_no_error_beyond_the_budget() -> None:
    """A path that raised at a position was not shown wrong there."""
    curve = ErrorCurve("mine", False, (None, 0.5, 3.0), (False, True, False))
    words = caption(Errors("S=9,pos=3", (0, 1, 2), (1.0, 1.0, 1.0), (curve,)))
    assert words.seen == (
        "mine exceeds it at 1 of 3 positions. mine gives no output at 1 of 3 positions."
    )
    assert [row[2] for row in words.rows] == ["-", "0.5", "3 beyond"]


def test_a_dark_theme_has_colours_of_its_own() -> None:
    """Each colour of the page is set again for it, and pictures are on a white card."""
    files = publish([history(Results())], "cpu", ["a command"], lambda text: None)
    style = str(files["figures.html"]).partition("<style>")[2].partition("</style>")[0]
    light, _, dark = style.partition("@media screen and (prefers-color-scheme: dark) {")
    names = re.findall(r"(--\w+):", light)
    assert names and re.findall(r"(--\w+):", dark.partition("}")[0]) == names
    # No colour stands outside of the two lists, but the card's.
    assert re.findall(r"#[0-9a-f]{3,6}\b", dark.partition("}")[2]) == ["#fff"]
    assert re.search(r"img \{[^}]*background: #fff", style)
