"""Figures about volume: scores against it, and Bland-Altman panels of predicted and reference volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from gtvbench.reports.figures.canvas import FAINT, GRID, INK, MARKERS, WIDTH, Canvas
from gtvbench.reports.figures.violins import shorten
from gtvbench.reports.text.numbers import visible

_PANEL, _HEAD, _FOOT, _GAP = 100, 48, 40, 52


@dataclass(frozen=True)
class AgreementPanel:
    """One arm: (mean of both volumes, difference, case) of every case, the mean difference and the limits.

    `limits` are (mean, low, high) or None below three cases; `note` says them in words.
    """

    label: str
    note: str
    colour: str
    marker: str
    points: tuple[tuple[float, float, str], ...]
    limits: tuple[float, float, float] | None


@dataclass(frozen=True)
class AgreementFigure:
    """Bland-Altman panels of one structure on common axes, two beside each other."""

    id: str
    title: str
    reading: str
    x_title: str
    y_title: str
    panels: tuple[AgreementPanel, ...]
    #: Whether differences are log2 of ratios, to be labelled as ratios.
    ratio: bool = False

    @property
    def rows(self) -> int:
        """Rows of panels."""
        return math.ceil(len(self.panels) / 2)

    @property
    def height(self) -> int:
        """Height in px."""
        return self.rows * (_PANEL + _HEAD + 8) + _FOOT


def bland_altman(figure_data: AgreementFigure) -> Canvas:
    """Draw the panels; every mark tells its case and leads to its page."""
    figure = Canvas(figure_data.height)
    xs = [x for panel in figure_data.panels for x, _, _ in panel.points]
    wide = (WIDTH - _GAP - 8 - 14) / 2
    for index, panel in enumerate(figure_data.panels):
        row, column = divmod(index, 2)
        left = _GAP + column * (wide + 14)
        top = (_PANEL + _HEAD + 8) * row + _HEAD
        axes = figure.bare_axes(left, WIDTH - left - wide, top, figure.height - top - _PANEL)
        _draw_panel(figure, axes, panel)
        lowest = index + 2 >= len(figure_data.panels)
        span = _span(figure_data.panels[2 * row : 2 * row + 2])
        _set_axes(axes, (min(xs), max(xs)), span, figure_data, first=column == 0, lowest=lowest)
    figure.text(4 / WIDTH, 0.5, figure_data.y_title, rotation=90, va="center", color=INK)
    return figure


def _span(panels: Sequence[AgreementPanel]) -> tuple[float, float]:
    """Range of the differences of two panels beside each other, with their limits and zero."""
    ys = [y for panel in panels for _, y, _ in panel.points]
    ys += [v for panel in panels if panel.limits for v in panel.limits] + [0.0]
    room = 0.06 * max(max(ys) - min(ys), 1e-9)
    return min(ys) - room, max(ys) + room


def _draw_panel(figure: Canvas, axes: Axes, panel: AgreementPanel) -> None:
    axes.axhline(0, color=FAINT, linewidth=1)
    if panel.limits is not None:
        middle, low, high = panel.limits
        axes.axhline(middle, color=INK, linewidth=1.2)
        for limit in (low, high):
            axes.axhline(limit, color=INK, linewidth=1, linestyle="--")
    style: dict[str, Any] = {"markersize": 5, "color": panel.colour, "markeredgecolor": INK, "markeredgewidth": 0.4}
    cases = [case for _, _, case in panel.points]
    words = [visible(case) for case in cases]
    figure.plot_marks(axes, [(x, y) for x, y, _ in panel.points], words, cases, marker=MARKERS[panel.marker], **style)
    axes.text(0, 1.17, _two_lines(panel.label), transform=axes.transAxes, color=INK, va="bottom", linespacing=1.15)
    axes.text(0, 1.03, panel.note, transform=axes.transAxes, color=FAINT, va="bottom")


def _two_lines(label: str) -> str:
    """An arm's name above half a figure: its method, then its fusion and seed."""
    method, dot, rest = label.partition(".")
    return f"{shorten(method, 23)}\n{shorten(rest, 23)}" if dot else f"\n{shorten(method, 23)}"


def _set_axes(
    axes: Axes, volumes: tuple[float, float], span: tuple[float, float], figure_data: AgreementFigure, *, first: bool,
    lowest: bool,
) -> None:  # fmt: skip
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(volumes[0] / 1.2, volumes[1] * 1.2)
    ticks = volume_ticks(*volumes, most=3)
    axes.set_xticks(ticks, [f"{tick:g}" if lowest else "" for tick in ticks])
    if lowest:
        axes.set_xlabel(figure_data.x_title, color=INK)
    axes.set_ylim(*span)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if figure_data.ratio:
        ratios = _ratio_ticks(2 ** span[0], 2 ** span[1])
        axes.set_yticks([math.log2(ratio) for ratio in ratios], [f"{ratio:g}" for ratio in ratios])
    if not first:
        axes.set_yticklabels([])


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Up to five ratios that lie in a range around 1, with 1 among them."""
    fine = (0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.25)
    coarse = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30, 100)
    inside = [float(ratio) for ratio in (fine if high / low < 1.6 else coarse) if low <= ratio <= high]
    step = math.ceil(len(inside) / 5)
    return inside[inside.index(1.0) % step :: step] if 1.0 in inside else inside[::step]


def volume_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Ticks in mL on a logarithmic axis from `low` to `high`: the coarsest steps that give three of them.

    At most `most` of them.
    """
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(1 + k / 10 for k in range(90))):
        ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / most)] if ticks else [low]
