"""Figures as SVG by matplotlib: what the page shows without JavaScript and on paper, from the same data.

Two inks are placeholders that the page turns into the theme's colours; in the files under report/data they are plain
dark grey and light grey on white.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gtvbench.reports.figures import BOTTOM, HALF, SINK, TOP, Curves, Forest, Panel, Row

_INK, _FAINT, _GRID, _PAPER = "#16181b", "#5b6169", "#dcdfe3", "#fefefe"
_THEMED = {_INK: "currentColor", _FAINT: "var(--faint)", _GRID: "var(--line)", _PAPER: "var(--paper)"}
_MARKERS = {"circle": "o", "square": "s", "triangle-up": "^"}
_WIDTH = 360

_STYLE = {
    "svg.hashsalt": "gtvbench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "font.size": 9.5,
    "path.simplify": False,
}


def violins(panel: Panel) -> str:
    """A violin panel as an SVG document."""
    with rc_context(_STYLE):
        figure, axes = _canvas(panel.height, left=10, right=10, top=TOP, bottom=BOTTOM)
        if panel.gutter is not None:
            axes.axvspan(panel.gutter, panel.end, color=_GRID, alpha=0.45, linewidth=0, zorder=0)
        for index, row in enumerate(panel.rows):
            _draw_row(axes, row, index)
        axes.set_xlim(-0.02 * panel.end, 1.02 * panel.end)
        axes.set_ylim(0.5 - len(panel.rows), 0.5)
        axes.set_yticks([])
        axes.set_xticks([value for value, _ in panel.ticks], [text for _, text in panel.ticks])
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_xlabel(panel.axis, color=_INK)
        return _svg(figure)


def forest(figure_data: Forest) -> str:
    """Differences and their intervals as an SVG document."""
    with rc_context(_STYLE):
        figure, axes = _canvas(figure_data.height, left=10, right=10, top=TOP, bottom=BOTTOM)
        axes.axvspan(-figure_data.margin, figure_data.margin, color=_GRID, alpha=0.45, linewidth=0, zorder=0)
        axes.axvline(0, color=_FAINT, linewidth=1)
        for index, (label, difference, low, high) in enumerate(figure_data.rows):
            centre = -index - 0.2
            axes.plot([low, high], [centre, centre], color=_INK, linewidth=1.6)
            axes.plot([difference], [centre], "s", markersize=5.5, color=_INK)
            axes.annotate(
                label, (0, 0.5 - index), (2, -1), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                va="top", color=_INK, fontsize=8.5, bbox={"facecolor": _PAPER, "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        ends = [abs(v) for row in figure_data.rows for v in row[1:]] + [figure_data.margin]
        axes.set_xlim(-1.08 * max(ends), 1.08 * max(ends))
        axes.set_ylim(0.5 - len(figure_data.rows), 0.5)
        axes.set_yticks([])
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.set_xlabel(figure_data.axis, color=_INK)
        return _svg(figure)


def _draw_row(axes: Axes, row: Row, index: int) -> None:
    centre = -index - SINK
    place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "va": "top"}
    place["bbox"] = {"facecolor": _PAPER, "edgecolor": "none", "pad": 0.5}
    axes.annotate(row.label, (0, 0.5 - index), (2, -1), color=_INK, weight="bold", **place)
    axes.annotate(row.note, (0, 0.5 - index), (2, -13), color=_FAINT, fontsize=8.5, **place)
    if row.outline:
        xs = [x for x, _ in row.outline]
        spread = [HALF * h for _, h in row.outline]
        below, above = [centre - s for s in spread], [centre + s for s in spread]
        axes.fill_between(xs, below, above, facecolor=row.colour, alpha=0.22, linewidth=0)
        axes.plot(xs + xs[::-1] + xs[:1], above + below[::-1] + above[:1], color=row.colour, linewidth=1)
    low, median, high = row.quartiles
    axes.plot([low, high], [centre, centre], color=_INK, linewidth=2.4, solid_capstyle="butt")
    axes.plot([median, median], [centre - 0.14, centre + 0.14], color=_INK, linewidth=2)
    if row.mean is not None:
        axes.plot([row.mean], [centre], "D", markersize=5, color=_PAPER, markeredgecolor=_INK, clip_on=False)
    for point in row.points:
        marker: dict[str, Any] = (
            {"marker": "x", "markersize": 5.5, "color": _INK, "markeredgewidth": 1.5}
            if point.failed
            else {"marker": _MARKERS[row.marker], "markersize": 0.75 * row.marker_size, "color": row.colour}
            | {"markeredgecolor": _PAPER, "markeredgewidth": 0.6}
        )
        axes.plot([point.x], [centre + point.offset], linestyle="none", clip_on=False, **marker)


def training(figure_data: Curves) -> str:
    """Training curves as an SVG document."""
    with rc_context(_STYLE):
        figure, axes = _canvas(300, left=46, right=12, top=34, bottom=42)
        for name, values, line, marker in (
            ("training loss", figure_data.training, "-", "o"),
            ("validation loss", figure_data.validation, "--", "s"),
        ):
            heights = [float("nan") if v is None else v for v in values]
            axes.plot(
                figure_data.epochs, heights, line, marker=marker, markersize=4.5, color=figure_data.colour, label=name
            )
        if figure_data.best is not None:
            axes.axvline(figure_data.best, color=_FAINT, linewidth=1.2, linestyle=":")
        if all(v is None or v >= 0 for v in (*figure_data.training, *figure_data.validation)):
            axes.set_ylim(bottom=0)  # nnU-Net's loss, cross-entropy minus Dice, goes below
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_xlabel("epoch", color=_INK)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, labelcolor=_INK)
        return _svg(figure)


def _canvas(height: int, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A figure of _WIDTH x `height` units with one pair of axes inside margins in the same unit (1/72 inch)."""
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    box = (left / _WIDTH, bottom / height, (_WIDTH - left - right) / _WIDTH, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, colors=_INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Names may use letters that the measuring font lacks; the reader's browser has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(svg: str, prefix: str) -> str:
    """An SVG document as an element for the page: themed colours, ids that no other figure has, scaled by CSS."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    for plain, themed in _THEMED.items():
        body = body.replace(plain, themed)
    return body.strip()
