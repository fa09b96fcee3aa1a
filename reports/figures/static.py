"""Violin panels and forests by matplotlib; see `canvas` for inks and sizes."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from gtvbench.reports.figures.canvas import FAINT, GRID, INK, MARKERS, PAPER, Canvas
from gtvbench.reports.figures.violins import BOTTOM, HALF, SINK, TOP, Forest, Panel, Row
from gtvbench.reports.text.numbers import duration


def violins(panel: Panel) -> Canvas:
    """A violin panel; every mark tells its case and leads to its page."""
    figure = Canvas(panel.height)
    axes = figure.bare_axes(left=10, right=10, top=TOP, bottom=BOTTOM)
    if panel.gutter is not None:
        axes.axvspan(panel.gutter, panel.end, color=GRID, alpha=0.45, linewidth=0, zorder=0)
    for index, row in enumerate(panel.rows):
        _draw_row(figure, axes, row, index)
    axes.set_xlim(-0.02 * panel.end, 1.02 * panel.end)
    axes.set_ylim(0.5 - len(panel.rows), 0.5)
    axes.set_yticks([])
    axes.set_xticks([value for value, _ in panel.ticks], [text for _, text in panel.ticks])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel(panel.axis, color=INK)
    return figure


def forest(figure_data: Forest) -> Canvas:
    """Values and their intervals."""
    figure = Canvas(figure_data.height)
    axes = figure.bare_axes(left=10, right=10, top=TOP, bottom=BOTTOM)
    if figure_data.margin is not None:
        axes.axvspan(-figure_data.margin, figure_data.margin, color=GRID, alpha=0.45, linewidth=0, zorder=0)
        axes.axvline(0, color=FAINT, linewidth=1)
    for index, (label, difference, low, high) in enumerate(figure_data.rows):
        centre = -index - 0.27
        axes.plot([low, high], [centre, centre], color=INK, linewidth=1.6)
        axes.plot([difference], [centre], "s", markersize=5.5, color=INK)
        where: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(label, (0, 0.5 - index), (2, -1), va="top", color=INK, **where)
    ends = [abs(v) for row in figure_data.rows for v in row[1:]]
    if figure_data.margin is None:
        low, high = min(ends) / 1.4, max(ends) * 1.4
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(low, high)
        ticks = _log_ticks(low, high)
        axes.set_xticks(ticks, [duration(tick) for tick in ticks])
    else:
        reach = 1.08 * max([*ends, figure_data.margin])
        axes.set_xlim(-reach, reach)
    axes.set_ylim(0.5 - len(figure_data.rows), 0.5)
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel(figure_data.axis, color=INK)
    return figure


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside the range, or 1, 2 and 5 of each where that leaves fewer than two."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 2:
            break
    return ticks


def _draw_row(figure: Canvas, axes: Axes, row: Row, index: int) -> None:
    centre = -index - SINK
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "top"}
    place["bbox"] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    axes.annotate(row.label, (0, 0.5 - index), (2, -1), color=INK, **place)
    axes.annotate(row.note, (0, 0.5 - index), (2, -15), color=FAINT, **place)
    if row.outline:
        xs = [x for x, _ in row.outline]
        spread = [HALF * h for _, h in row.outline]
        below, above = [centre - s for s in spread], [centre + s for s in spread]
        axes.fill_between(xs, below, above, facecolor=row.colour, alpha=0.22, linewidth=0)
        axes.plot(xs + xs[::-1] + xs[:1], above + below[::-1] + above[:1], color=row.colour, linewidth=1)
    low, median, high = row.quartiles
    axes.plot([low, high], [centre, centre], color=INK, linewidth=2.4, solid_capstyle="butt")
    axes.plot([median, median], [centre - 0.14, centre + 0.14], color=INK, linewidth=2)
    if row.mean is not None:
        axes.plot([row.mean], [centre], "D", markersize=5, color=PAPER, markeredgecolor=INK, clip_on=False)
    plain = {"marker": MARKERS[row.marker], "markersize": 0.75 * row.marker_size, "color": row.colour}
    plain |= {"markeredgecolor": PAPER, "markeredgewidth": 0.6}
    cross = {"marker": "x", "markersize": 5.5, "color": INK, "markeredgewidth": 1.5}
    for failed, style in ((False, plain), (True, cross)):
        points = [p for p in row.points if p.failed == failed]
        words = [f"{row.label}, {p.words}" for p in points]
        figure.plot_marks(axes, [(p.x, centre + p.offset) for p in points], words, [p.case for p in points], **style)
