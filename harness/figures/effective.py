"""A picture of effective weights: what a function gives each slot, beside what was due."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from harness.figures.heatmaps import GREY
from harness.figures.plots import WIDE, png

_LEAST = 1e-4  # the smallest weight that has a shade of its own


def effective_picture(title: str, weights: dict[str, Any]) -> bytes:
    """A PNG of weights as ``EffectiveWeights.to_values`` gives them, head by slot.

    A slot that got weight and was due none is framed; a weight that is negative, or no number, is
    hatched, since a logarithmic scale has no shade for it.
    """
    got, due = weights["got"], weights["due"]
    sequence, head, token = weights["row"]
    canvas = Canvas(figsize=(WIDE, 5.0), layout="constrained")
    top, bottom = canvas.subplots(2, 1, sharex=True, sharey=True)
    place = f"sequence {sequence}, query token {token}; the worst row is head {head}"
    canvas.suptitle(f"{title}\n{place}", fontsize=10)
    for axes, rows, what in ((top, got, "what it gives each slot"), (bottom, due, "what is due")):
        image = _weights(axes, rows, weights["first_head"])
        axes.set_title(what, fontsize=10, loc="left")
    for number, (row, wanted) in enumerate(zip(got, due, strict=True)):
        for slot, (weight, other) in enumerate(zip(row, wanted, strict=True)):
            at = (slot - 0.5, weights["first_head"] + number - 0.5)
            if not weight >= 0:
                top.add_patch(Rectangle(at, 1, 1, fill=False, hatch="////", linewidth=0))
            elif weight and not other:
                top.add_patch(Rectangle(at, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.5))
    bottom.set_xlabel("cache slot")
    bar = canvas.colorbar(image, ax=[top, bottom], location="bottom", fraction=0.04, aspect=45)
    bar.set_label("weight, log scale; framed: given, not due; hatched: negative or no number")
    bar.ax.xaxis.label.set_color(GREY)
    return png(canvas, 160)


def _weights(axes: Axes, rows: list[list[float]], first: int) -> Any:
    axes.set_ylabel("query head")
    shades = [[w if w > 0 else math.nan for w in row] for row in rows]
    last, slots = first + len(rows) - 0.5, len(rows[0]) - 0.5
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return axes.imshow(
        shades,
        aspect="auto",
        interpolation="nearest",
        cmap="magma_r",
        norm=LogNorm(_LEAST, 1.0),
        extent=(-0.5, slots, last, first - 0.5),
    )
