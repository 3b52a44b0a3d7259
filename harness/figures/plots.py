"""Drawing of the figures as PNGs; only this module and ``heatmaps`` need matplotlib.

Colours are those of Okabe and Ito, "Color Universal Design" (2008). Every line has a marker and a
dash pattern of its own and its name beside it, so that no line depends on its colour.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from PIL import Image

from harness.figures import heatmaps
from harness.figures.values import (
    Attended,
    Errors,
    Figure,
    Graphs,
    History,
    Matrix,
    Times,
    Utilisation,
)

STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#000000", "D", ":"),
    ("#CC79A7", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#8B6D00", "P", (0, (3, 2))),
)
GREY, BAND = heatmaps.GREY, "#DDDDDD"
WIDE, NARROW = 8.0, 4.1  # inches
COLOURS = 256


def draw(figure: Figure, *, narrow: bool = False) -> bytes:
    """A PNG of the figure, 1280 pixels wide, or ``narrow``, 820 pixels, for a phone."""
    canvas = Canvas(figsize=(NARROW if narrow else WIDE, 4.2))
    PLOTS[type(figure)](figure, canvas, narrow)
    return png(canvas, 200 if narrow else 160)


def png(canvas: Canvas, dpi: int) -> bytes:
    """The canvas as a PNG of so many pixels an inch."""
    drawn, small = io.BytesIO(), io.BytesIO()
    canvas.savefig(drawn, format="png", dpi=dpi)
    # A palette makes the file a third as large, and drops the note about matplotlib's version.
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        small, format="png", optimize=True
    )
    return small.getvalue()


def _tidy(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)


def _beside(canvas: Canvas, *, below: float = 0.65) -> Axes:
    """Axes with room for names at the right; ``below`` is the margin at the bottom in inches."""
    width, height = canvas.get_size_inches()
    axes: Axes = canvas.subplots()
    canvas.subplots_adjust(
        left=0.72 / width, right=1 - 1.62 / width, bottom=below / height, top=1 - 0.15 / height
    )
    return axes


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name right of the axes, near the line's end (x, y), without overlaps."""
    inside, data = axes.transAxes.inverted(), axes.transData
    box, inch = axes.get_window_extent(), axes.figure.dpi
    line, aside = 0.15 * inch / box.height, 1 + 0.16 * inch / box.width
    ends = sorted(ends, key=lambda end: end[1])
    heights = [(text.count("\n") + 1.4) * line for _, _, text, _ in ends]
    centres = [float(inside.transform(data.transform(end[:2]))[1]) for end in ends]
    for _ in range(200):
        for i in range(len(ends) - 1):
            overlap = (heights[i] + heights[i + 1]) / 2 - (centres[i + 1] - centres[i])
            if overlap > 0:
                centres[i] -= overlap / 2
                centres[i + 1] += overlap / 2
    for (x, y, text, colour), centre in zip(ends, centres, strict=True):
        axes.annotate(
            text,
            (x, y),
            (aside, centre),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=colour,
            arrowprops=dict(
                arrowstyle="-", color=GREY, linewidth=0.6, relpos=(0, 0.5), shrinkA=1, shrinkB=4
            ),
            annotation_clip=False,
        )


def _alike(curves: Sequence[Any], values: Callable[[Any], tuple[Any, ...]]) -> list[list[Any]]:
    """Group the curves that have the same values, to be drawn as one line with all their names."""
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for curve in curves:
        groups.setdefault(values(curve), []).append(curve)
    return list(groups.values())


def errors(figure: Errors, canvas: Canvas, narrow: bool) -> None:
    """Draw the error of each path over positions, above the band that rounding explains."""
    axes = _beside(canvas, below=1.2 if narrow else 0.8)
    _tidy(axes, "position of the query", "largest error, units of the values")
    values = [v for c in figure.curves for v in (*c.largest, *figure.budget) if v]
    floor = min(values) / 4
    axes.set_yscale("log")
    axes.set_xscale("symlog", linthresh=1, base=2)
    ticks = [p for p in (0, 1, 8, 64, 512, 4096) if p <= figure.positions[-1]]
    axes.set_xticks(ticks, [str(p) for p in ticks], minor=False)
    axes.set_ylim(floor, max(values) * 3)
    axes.set_xlim(figure.positions[0], figure.positions[-1])
    axes.fill_between(figure.positions, floor, figure.budget, color=BAND, linewidth=0)
    axes.text(
        0.55, 0.04, "rounding explains this", transform=axes.transAxes, ha="center",
        fontsize=8.5, color="#444444",
    )  # fmt: skip
    axes.plot(figure.positions, figure.budget, color=GREY, linewidth=1.2)
    ends = [(figure.positions[-1], figure.budget[-1], "rounding budget", GREY)]
    for style, group in zip(
        STYLES, _alike(figure.curves, lambda c: (c.largest, c.within)), strict=False
    ):
        colour, marker, dashes = style
        # An error of 0 has no place on a log scale, so it is drawn at the bottom.
        shown = [float("nan") if v is None else max(v, floor) for v in group[0].largest]
        axes.plot(figure.positions, shown, color=colour, linestyle=dashes, linewidth=1.4)
        for inside, shape in ((True, marker), (False, "x")):
            points = [
                (p, v)
                for p, v, ok in zip(figure.positions, shown, group[0].within, strict=True)
                if ok is inside
            ]
            axes.plot(
                [p for p, _ in points], [v for _, v in points], shape, color=colour, clip_on=False,
                markersize=4.5 if inside else 7, markeredgewidth=1 if inside else 2,
            )  # fmt: skip
        names = [c.path + ("*" if c.known_wrong else "") for c in group]
        ends.append((figure.positions[-1], shown[-1], ",\n".join(names), colour))
    _label_ends(axes, [e for e in ends if e[1] == e[1]])
    note = "floor of the axis: exact   x: beyond its budget   *: there to be shown wrong"
    canvas.text(0.02, 0.02, note.replace("   ", "\n") if narrow else note, fontsize=8, color=GREY)


def utilisation(figure: Utilisation, canvas: Canvas, narrow: bool) -> None:
    """Draw the utilisation of each path, with a panel for each dtype."""
    dtypes = list(dict.fromkeys(s.dtype for s in figure.shares))
    canvas.set_layout_engine("constrained")
    canvas.set_figheight(1.1 + 1.5 * len(dtypes))
    panels = canvas.subplots(len(dtypes), 1, sharex=True, squeeze=False)[:, 0]
    numbers = [v for s in figure.shares for v in (s.here, s.record) if v]
    low = min([*numbers, 0.01]) / 2
    for axes, dtype in zip(panels, dtypes, strict=True):
        shares = [s for s in figure.shares if s.dtype == dtype]
        axes.set_xscale("log")
        axes.set_xlim(low, max([*numbers, 1.0]) * 2)
        axes.set_ylim(len(shares) - 0.4, -0.6)
        axes.set_yticks(range(len(shares)), [s.path for s in shares])
        axes.set_title(dtype, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1)
        for y, share in enumerate(shares):
            if share.record is not None:
                axes.plot([share.record], [y], "|", color="#D55E00", markersize=13, mew=2.5)
            else:
                axes.text(
                    1.01, y, "no record", transform=axes.get_yaxis_transform(), va="center",
                    fontsize=8, color=GREY,
                )  # fmt: skip
            if share.here is None:
                axes.text(low * 3, y, "not supported", va="center", fontsize=8, color=GREY)
            else:
                axes.plot([share.here], [y], "o", color="#0072B2", markersize=6)
    panels[0].text(0.93, -0.7, "whole budget", ha="right", va="bottom", fontsize=8)
    panels[-1].set_xlabel("largest error / rounding budget")
    key = "dot: measured here    bar: the ledger's record"
    if not figure.ledger:
        key = "dot: measured here    no record: there is no ledger"
    canvas.suptitle(key.replace("    ", "\n") if narrow else key, fontsize=9)


def times(figure: Times, canvas: Canvas, narrow: bool) -> None:
    """Draw the time of a step over positions, with a bar over the middle half of the rounds."""
    axes = _beside(canvas)
    _tidy(axes, "position of the query", "time of a step, ms")
    ends = []
    for (colour, marker, dashes), curve in zip(STYLES, figure.curves, strict=False):
        median = curve.milliseconds
        below = [m - q for m, q in zip(median, curve.lower, strict=True)]
        above = [q - m for m, q in zip(median, curve.upper, strict=True)]
        axes.errorbar(
            figure.positions, median, yerr=(below, above), color=colour, marker=marker,
            linestyle=dashes, markersize=4.5, linewidth=1.6, elinewidth=1.2, capsize=3,
        )  # fmt: skip
        label = f"{curve.path}\n({curve.how})"
        ends.append((figure.positions[-1], curve.milliseconds[-1], label, colour))
    axes.set_ylim(0, max(max(c.upper) for c in figure.curves) * 1.1)
    axes.set_xlim(figure.positions[0], figure.positions[-1] * 1.02)
    if narrow:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    _label_ends(axes, ends)


def graphs(figure: Graphs, canvas: Canvas, narrow: bool) -> None:
    """Draw the number of compiled graphs over steps."""
    axes = _beside(canvas)
    _tidy(axes, "decode steps taken", "graphs compiled")
    steps = range(1, len(figure.curves[0].graphs) + 1)
    ends = [(steps[-1], figure.limit, "torch stops\ncompiling here", GREY)]
    axes.axhline(figure.limit, color=GREY, linestyle=(0, (1, 2)), linewidth=1.5)
    for style, group in zip(STYLES, _alike(figure.curves, lambda c: c.graphs), strict=False):
        colour, marker, dashes = style
        axes.plot(
            steps, group[0].graphs, color=colour, marker=marker, linestyle=dashes, markersize=4.5
        )
        label = ",\n".join(c.name for c in group)
        ends.append((steps[-1], group[0].graphs[-1], label, colour))
    axes.set_ylim(0, max(figure.limit, *(c.graphs[-1] for c in figure.curves)) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 9, integer=True))
    _label_ends(axes, ends)


PLOTS: dict[type, Callable[[Any, Canvas, bool], None]] = {
    Attended: heatmaps.attended,
    Errors: errors,
    Utilisation: utilisation,
    Matrix: heatmaps.matrix,
    Times: times,
    Graphs: graphs,
    History: heatmaps.history,
}
