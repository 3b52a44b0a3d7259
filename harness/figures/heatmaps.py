"""Drawing of the two figures that are heat maps, with matplotlib."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from harness.figures.captions import slot_count
from harness.figures.values import Attended, Cell, History, Matrix, Side

GREY = "#666666"
POINTS = 72  # in an inch, the unit of letter sizes
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def attended(figure: Attended, canvas: Canvas, narrow: bool) -> None:
    """Draw the attention weights of both sides of the report, head by slot."""
    canvas.set_layout_engine("constrained")
    canvas.set_figheight(5.4)
    top, bottom = canvas.subplots(2, 1, sharex=True)
    slots = len(figure.full.weights[0])
    for axes, side, title in (
        (top, figure.reported, "Report's slice, mask q >= kv"),
        (bottom, figure.full, f"Full cache, mask q + {figure.position} >= kv"),
    ):
        image = _weights(axes, side, slots)
        count = slot_count(side)
        slots_attended = f"{count} slot{'s' * (count != 1)} attended"
        axes.set_title(
            f"{title}\nquery at position {side.position}: {slots_attended}", fontsize=10, loc="left"
        )
        used = figure.position + 1
        axes.add_patch(
            Rectangle((used - 0.5, -0.5), slots - used, len(side.weights), facecolor="#F2F2F2",
                      edgecolor="#AAAAAA", hatch="///", linewidth=0)
        )  # fmt: skip
        axes.text(
            (used + slots - 1) / 2, len(side.weights) / 2 - 0.5, "unused", rotation=90,
            ha="center", va="center", bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
        )  # fmt: skip
    if slot_count(figure.reported) == 1:
        top.annotate(
            "all weight on slot 0",
            (0.5, len(figure.reported.weights) / 2),
            (used * 0.14, len(figure.reported.weights) / 2),
            va="center",
            arrowprops=dict(arrowstyle="->", linewidth=1.5),
        )
        top.text(used * 0.97, 1, "filled, never read", ha="right", va="top", color=GREY)
    bottom.set_xlabel("cache slot")
    bottom.set_xlim(-2, slots - 0.5)
    bar = canvas.colorbar(
        image, ax=[top, bottom], location="bottom", fraction=0.04, aspect=45, pad=0.02
    )
    bar.set_label("attention weight, log scale")


def _weights(axes: Axes, side: Side, slots: int) -> Any:
    axes.set_ylabel("query head")
    axes.set_facecolor("white")
    weights = [[w if w > 0 else float("nan") for w in row] for row in side.weights]
    return axes.imshow(
        weights, aspect="auto", interpolation="nearest", cmap="magma_r", norm=LogNorm(1e-4, 1.0)
    )


def matrix(figure: Matrix, canvas: Canvas, narrow: bool) -> None:
    """Draw planted faults against rules, with numbers in the cells, so that no cell depends on its
    shade."""
    rows = len(figure.rows)
    groups: dict[str, list[int]] = {}
    for j, (group, _) in enumerate(figure.columns):
        groups.setdefault(group, []).append(j)
    canvas.set_layout_engine("constrained")
    # The wide picture must fit on a printed page; on a phone one can scroll.
    height = min(2.0 + 0.21 * rows, 15.0 if narrow else 11.2)
    canvas.set_figheight(height)
    widths = [len(at) for at in groups.values()]
    panels = canvas.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
    letters = min(6.5 if narrow else 8.0, 0.72 * POINTS * (height - 2.0) / max(rows, 1))
    numbers = letters * min(1, 10 / len(figure.columns)) if narrow else letters
    for axes, (group, at) in zip(panels, groups.items(), strict=True):
        _cells(axes, [[row[j] for j in at] for row in figure.cells], numbers)
        names = [SHORT.get(figure.columns[j][1], figure.columns[j][1]) for j in at]
        turned = dict(rotation=90) if narrow else dict(rotation=55, ha="right")
        axes.set_xticks(range(len(at)), names, fontsize=letters, **turned)
        _apart(axes, rows, len(at))
        title = group.replace(" ", "\n", 1) if narrow else group
        axes.set_title(title, fontsize=letters + 1)
    panels[0].set_yticks(range(rows), [name for name, _ in figure.rows], fontsize=letters)
    panels[0].set_ylabel("planted fault")
    note = "refused, % of runs; hatched: never refused; -: not run"
    canvas.supxlabel("\n".join([note, *figure.missing]), fontsize=letters, color=GREY)


def history(figure: History, canvas: Canvas, narrow: bool) -> None:
    """Draw what versions of torch changed: the largest shares of the budget, and which findings
    show."""
    letters = 6.5 if narrow else 8.0
    canvas.set_layout_engine("constrained")
    heights = [len(rows) for rows in (figure.shares, figure.findings) if rows]
    canvas.set_figheight(1.2 + 0.2 * sum(heights))
    panels = list(canvas.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if figure.shares:
        axes = panels.pop(0)
        shares = [[math.nan if s is None else s for s in row] for _, _, row in figure.shares]
        axes.imshow(shares, aspect="auto", cmap="Blues", norm=LogNorm(1e-3, 2.0))
        _versions(axes, figure, [f"{path} {dtype}" for path, dtype, _ in figure.shares], letters)
        apart = "\n" if narrow else " "
        title = f"largest share of the budget{apart}({figure.hardware})"
        axes.set_title(title, fontsize=letters + 1)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                text = "-" if math.isnan(share) else f"{share:.3f}"
                colour = "white" if share > 0.3 else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=letters, color=colour)
    if figure.findings:
        axes = panels.pop(0)
        words = {True: "shows", False: "does not", None: "-"}
        shades = [[math.nan if s is None else float(s) for s in row] for _, row in figure.findings]
        axes.imshow(shades, aspect="auto", cmap="Oranges", vmin=-0.2, vmax=2.0)
        _versions(axes, figure, [name for name, _ in figure.findings], letters)
        axes.set_title("findings", fontsize=letters + 1)
        for i, (_, shown) in enumerate(figure.findings):
            for j, shows in enumerate(shown):
                axes.text(j, i, words[shows], ha="center", va="center", fontsize=letters)
    note = "\n".join(["-: not run, or not known", *figure.missing])
    canvas.supxlabel(note, fontsize=letters, color=GREY)


def _versions(axes: Axes, figure: History, rows: list[str], letters: float) -> None:
    axes.set_xticks(range(len(figure.versions)), figure.versions, fontsize=letters)
    axes.set_yticks(range(len(rows)), rows, fontsize=letters)
    _apart(axes, len(rows), len(figure.versions))


def _apart(axes: Axes, rows: int, columns: int) -> None:
    """White lines between cells."""
    axes.set_xticks([j - 0.5 for j in range(1, columns)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, rows)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _cells(axes: Axes, cells: list[list[Cell | None]], numbers: float) -> None:
    shares = [[_share(cell) for cell in row] for row in cells]
    axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1.15)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            text, share = "-", _share(cell)
            if cell is not None and cell.total:
                # Rounding must not give 100 where one run let the fault pass, nor 0 where one run
                # refused it.
                text = f"{min(max(100 * share, share > 0), 100 if share == 1 else 99):.0f}"
            never = share == 0
            if never:
                box = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", linewidth=0)
                box.set_edgecolor("#999999")
                axes.add_patch(box)
            label = axes.text(j, i, text, ha="center", va="center", fontsize=numbers)
            label.set_color("white" if share > 0.6 else "black")
            if never:
                label.set_bbox(dict(facecolor="white", edgecolor="none", pad=0.3))


def _share(cell: Cell | None) -> float:
    return cell.caught / cell.total if cell is not None and cell.total else math.nan
