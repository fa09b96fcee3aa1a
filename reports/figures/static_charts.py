"""Charts, rank maps and critical-difference diagrams by matplotlib; see `canvas` for inks and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

from gtvbench.reports.figures.canvas import FAINT, GRID, INK, MARKERS, PAPER, Canvas
from gtvbench.reports.figures.charts import Axis, Chart, Series
from gtvbench.reports.figures.ranking_figures import Diagram, RankMap

_LINES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_LEGEND_ROW = 17
#: Distance of the bars of a critical-difference diagram, in rows.
_BAR = 0.3


def chart(figure_data: Chart) -> Canvas:
    """A chart as a figure."""
    legends = [s for s in figure_data.series if s.legend]
    top = 12 + _LEGEND_ROW * len(legends) + (4 if legends else 0)
    figure = Canvas(figure_data.height)
    axes = figure.bare_axes(left=50, right=12, top=top, bottom=44)
    for rule in figure_data.rules:
        draw = axes.axhline if rule.axis == "y" else axes.axvline
        draw(rule.at, color=FAINT, linewidth=1.1, linestyle=_LINES[rule.dash])
        if rule.label:
            place, anchor = ((1.0, rule.at), axes.get_yaxis_transform()), ("right", "bottom")
            if rule.axis == "x":
                place, anchor = ((rule.at, 1.0), axes.get_xaxis_transform()), ("right", "top")
            axes.text(*place[0], rule.label, transform=place[1], ha=anchor[0], va=anchor[1], color=FAINT)
    for series in figure_data.series:
        _draw(figure, axes, series)
    _set(axes, figure_data.x, "x")
    _set(axes, figure_data.y, "y")
    axes.grid(color=GRID, linewidth=0.8)
    if legends:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=1, frameon=False, labelcolor=INK,
            handlelength=2.6, borderpad=0.2, labelspacing=0.25,
        )  # fmt: skip
    return figure


def _draw(figure: Canvas, axes: Axes, series: Series) -> None:
    x = np.array([np.nan if v is None else v for v in series.x], float)
    y = np.array([np.nan if v is None else v for v in series.y], float)
    label = series.name if series.legend else None
    if series.kind == "band":
        upper = np.array([np.nan if v is None else v for v in series.upper], float)
        axes.fill_between(x, y, upper, facecolor=series.colour, alpha=0.2, linewidth=0)
        return
    marker = MARKERS[series.marker] if series.marker else None
    if series.kind == "points":
        style: dict[str, Any] = {"marker": marker, "color": series.colour, "label": label}
        small = {"markersize": 3, "alpha": 0.35, "markeredgewidth": 0}
        style |= small if series.pale else {"markersize": 5, "markeredgecolor": INK, "markeredgewidth": 0.4}
        known = [k for k in range(len(x)) if np.isfinite(x[k]) and np.isfinite(y[k])]
        points = [(float(x[k]), float(y[k])) for k in known]
        figure.plot_marks(axes, points, [series.words[k] for k in known], [series.cases[k] for k in known], **style)
        return
    steps = "steps-post" if series.kind == "steps" else "default"
    axes.plot(x, y, _LINES[series.dash], marker=marker, markersize=4, color=series.colour, linewidth=1.5,
              drawstyle=steps, label=label)  # fmt: skip


def _set(axes: Axes, axis: Axis, which: str) -> None:
    setter = axes.set_xlabel if which == "x" else axes.set_ylabel
    setter(axis.title, color=INK)
    side = axes.xaxis if which == "x" else axes.yaxis
    if axis.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        side.set_minor_locator(NullLocator())
    if axis.whole:
        side.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if axis.ticks:
        side.set_ticks([value for value, _ in axis.ticks], [text for _, text in axis.ticks])
    if axis.range is not None:
        low, high = axis.range
        (axes.set_xlim if which == "x" else axes.set_ylim)((10**low, 10**high) if axis.log else (low, high))


def rank_map(figure_data: RankMap) -> Canvas:
    """Shares of patient resamples in which each arm has each rank, as shaded squares with their per cent."""
    count = len(figure_data.rows)
    figure = Canvas(figure_data.height)
    axes = figure.bare_axes(left=10, right=10, top=22, bottom=8)
    for index, (label, shares) in enumerate(figure_data.rows):
        axes.text(0, index - 0.33, label, va="center", color=INK)
        for place, share in enumerate(shares):
            axes.add_artist(_square(place, index + 0.17, share))
            if share >= 0.005:
                axes.text(place + 0.5, index + 0.17, f"{100 * share:.0f}", ha="center", va="center", color=INK)
    axes.set_xlim(0, max(count, 1))
    axes.set_ylim(count - 0.45, -0.55)
    axes.xaxis.tick_top()
    axes.set_xticks([place + 0.5 for place in range(count)], [str(place + 1) for place in range(count)])
    axes.set_yticks([])
    return figure


def _square(x: float, y: float, share: float) -> Rectangle:
    return Rectangle((x + 0.03, y - 0.26), 0.94, 0.52, facecolor="#0072B2", alpha=max(0.6 * share, 0.03), linewidth=0)


def critical_difference(figure_data: Diagram) -> Canvas:
    """Mean ranks, an arm a row, and above them bars over arms that do not differ significantly."""
    figure = Canvas(figure_data.height)
    axes = figure.bare_axes(left=12, right=12, top=24, bottom=4)
    count, bars = len(figure_data.arms), len(figure_data.cliques)
    for level, (first, last) in enumerate(figure_data.cliques):
        low, high = figure_data.arms[first][1], figure_data.arms[last][1]
        y = _BAR * (level + 1)
        axes.plot([low - 0.05, high + 0.05], [y, y], color=INK, linewidth=3.2, solid_capstyle="butt")
    for index, (label, rank) in enumerate(figure_data.arms):
        top = _BAR * (bars + 1) + index
        axes.plot([rank, rank], [0, top + 0.7], color=FAINT, linewidth=0.8)
        axes.plot([rank], [top + 0.7], "o", color=INK, markersize=6)
        axes.text(
            1 - 0.02 * count, top + 0.28, f"{label}: {rank:.2f}", color=INK, va="center",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.set_xlim(1 - 0.03 * count, count * 1.03)
    axes.set_ylim(_BAR * (bars + 1) + count, 0)
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, count + 1))
    axes.set_yticks([])
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return figure
