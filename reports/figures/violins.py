"""What violin panels and forests show; `static` draws them.

Colours: Okabe and Ito (2008), one a method; the marker tells the fusion, and every row is labelled, so that colour
never carries the message alone. The order leaves black to the text and pale yellow to the seventh method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from gtvbench.bench.core.scores import MEASURES, WHOLE_VOLUME
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.scores import of_scope
from gtvbench.reports.text.numbers import counted, number, visible

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("circle", "square", "triangle-up")

#: A distribution is drawn from this many patients on; below it the patients alone are.
MIN_FOR_VIOLIN = 10

#: Heights in px: one row of a violin panel, its label, and what is above and below the rows.
ROW, TOP, BOTTOM = 78, 8, 46
#: In rows: half the height of a violin, the band of points beside its centre (from, to), the centre below the middle.
HALF, BAND, SINK = 0.25, (0.075, 0.19), 0.2

# What fits above a violin on a page of 320 px.
_LONGEST_LABEL = 36


@dataclass(frozen=True)
class Point:
    """One case of one row: value on the axis, offset from the row's centre (rows), words for the pointer.

    An outlier lies more than 1.5 interquartile ranges beyond the quartiles (Tukey), or has no usable mask.
    """

    x: float
    offset: float
    words: str
    failed: bool
    case: str
    outlier: bool


@dataclass(frozen=True)
class Row:
    """One arm in a violin panel. `outline` holds (value, half-width from 0 to 1)."""

    label: str
    note: str
    colour: str
    marker: str
    points: tuple[Point, ...]
    outline: tuple[tuple[float, float], ...]
    quartiles: tuple[float, float, float]
    mean: float | None

    @property
    def marker_size(self) -> float:
        """Size of a patient's mark in px: smaller where there are many, so that the shape stays visible."""
        return 7.5 if len(self.points) <= 20 else 5.0 if len(self.points) <= 50 else 3.5


@dataclass(frozen=True)
class Panel:
    """Violins of one metric of one structure; x from 0 to `end`, failed patients in a band beyond `gutter`."""

    id: str
    title: str
    axis: str
    higher_is_better: bool
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    end: float
    gutter: float | None

    @property
    def height(self) -> int:
        """Height in px."""
        return TOP + ROW * len(self.rows) + BOTTOM


def shorten(text: str, longest: int = _LONGEST_LABEL) -> str:
    """A name for a figure: invisible characters spelt out, its middle left out if it is too long."""
    text = visible(text)
    if len(text) <= longest:
        return text
    keep = longest - 1
    return f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"


def styles(arms: Sequence[ArmRecord]) -> dict[str, tuple[str, str]]:
    """Colour (by method) and marker (by fusion) of each arm, in order of appearance."""
    methods = list(dict.fromkeys(arm.method for arm in arms))
    fusions = list(dict.fromkeys(arm.fusion for arm in arms))
    return {
        arm.name: (
            OKABE_ITO[methods.index(arm.method) % len(OKABE_ITO)],
            MARKERS[fusions.index(arm.fusion) % len(MARKERS)],
        )
        for arm in arms
    }


def density(values: npt.NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Outline of a violin: (value, half-width from 0 to 1), Gaussian kernel, Scott's bandwidth, cut at the extremes.

    Empty where a distribution cannot be drawn: too few values, or no spread.
    """
    if len(values) < MIN_FOR_VIOLIN or np.ptp(values) < 1e-6:
        return ()
    bandwidth = values.std(ddof=1) * len(values) ** -0.2
    grid = np.linspace(values.min(), values.max(), 61)
    heights = np.exp(-0.5 * ((grid[:, None] - values[None, :]) / bandwidth) ** 2).sum(axis=1)
    heights /= heights.max()
    return tuple((round(float(x), 5), round(float(h), 4)) for x, h in zip(grid, heights, strict=True))


def panel(wide: pd.DataFrame, structure: str, metric: str, arms: Sequence[ArmRecord], number_of: int) -> Panel | None:
    """Violins of `metric` for one structure over the cases that have it, or None.

    Failed cases are drawn as crosses: at DSC 0, where they belong, and for distances in a band of their own at the
    right, because the penalty (diagonal of the grid) would squeeze everything else. `number_of` makes the id.
    """
    part = of_scope(wide, WHOLE_VOLUME)
    part = part[(part["structure"] == structure) & part["present"] & np.isfinite(part[metric])]
    arms = [arm for arm in arms if (part["arm"] == arm.name).any()]
    if not arms:
        return None
    measure = MEASURES[metric]
    drawn = part if measure.bounded else part[~part["failed"]]
    end, gutter = (1.0, None) if measure.bounded else (_nice_end(drawn[metric]), None)
    if not measure.bounded and part["failed"].any():
        gutter, end = end, end * 1.16
    lanes = {case: _offset(k) for k, case in enumerate(sorted(set(part["case"])))}
    style = styles(arms)
    rows = [_row(part[part["arm"] == arm.name], arm, metric, style[arm.name], lanes, gutter, end) for arm in arms]
    ticks = [(float(t), f"{t:g}") for t in MaxNLocator(5).tick_values(0, gutter or end) if 0 <= t <= (gutter or end)]
    if gutter is not None:
        ticks = [tick for tick in ticks if tick[0] <= 0.93 * gutter] + [((gutter + end) / 2, "failed")]
    name = f"{measure.title}, {visible(structure)}"
    higher = measure.higher_is_better
    return Panel(f"violin-{number_of}", name, measure.axis, higher, tuple(rows), tuple(ticks), end, gutter)


def _row(
    part: pd.DataFrame,
    arm: ArmRecord,
    metric: str,
    style: tuple[str, str],
    lanes: dict[str, float],
    gutter: float | None,
    end: float,
) -> Row:
    failed = int(part["failed"].sum())
    measure = MEASURES[metric]
    unit = f" {measure.unit}" if measure.unit else ""
    drawn = part if measure.bounded else part[~part["failed"]]
    lost_at = None if gutter is None else (gutter + end) / 2
    # Quartiles are those of the table, over all cases: one that falls on a penalty is drawn in the band.
    quartiles = np.minimum(np.quantile(part[metric], [0.25, 0.5, 0.75]), math.inf if lost_at is None else lost_at)
    low, _, high = np.quantile(part[metric], [0.25, 0.5, 0.75])
    inside = (low - 1.5 * (high - low), high + 1.5 * (high - low))
    points = []
    for case, value, lost, status in part[["case", metric, "failed", "status"]].sort_values("case").itertuples(False):
        x = lost_at if lost and lost_at is not None else float(value)
        shown = number(value, measure.digits) + unit
        words = f"{visible(case)}: {shown}" + (f" ({status}, penalty)" if lost else "")
        outlier = bool(lost) or not inside[0] <= value <= inside[1]
        points.append(Point(round(x, 5), lanes[case], words, bool(lost), str(case), outlier))
    middle = part[metric].mean() if measure.bounded else part[metric].median()
    note = f"{'mean' if measure.bounded else 'median'} {number(middle, measure.digits)}{unit}, n = {len(part)}"
    note += f", {failed} failed" if failed else ""
    return Row(
        label=shorten(arm.name),
        note=note,
        colour=style[0],
        marker=style[1],
        points=tuple(points),
        outline=density(drawn[metric].to_numpy(float)),
        quartiles=(float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
        mean=float(part[metric].mean()) if measure.bounded else None,
    )


def _offset(lane: int) -> float:
    """A patient keeps its lane in every row, so the eye can follow it; the middle is left to quartiles and mean.

    Lanes alternate above and below, and the golden ratio spreads neighbours.
    """
    low, high = BAND
    return round((1 if lane % 2 == 0 else -1) * (low + (lane * 0.618034) % 1.0 * (high - low)), 4)


def _nice_end(values: pd.Series[float]) -> float:
    largest = float(values.max()) if len(values) else 0.0
    return largest * 1.04 if largest > 0 else 1.0


@dataclass(frozen=True)
class Forest:
    """Values with their intervals, one below the other; `rows` are (label, value, low, high).

    Differences have a `margin` around zero, on a linear axis that is symmetric; without one (None) the values are
    positive and the axis is logarithmic.
    """

    id: str
    title: str
    rows: tuple[tuple[str, float, float, float], ...]
    margin: float | None
    axis: str
    higher_is_better: bool

    @property
    def height(self) -> int:
        """Height of the figure in its own unit."""
        return (36 if self.margin is None else 52) * len(self.rows) + TOP + BOTTOM


def forest(table: pd.DataFrame, structure: str, metric: str, number_of: int) -> Forest | None:
    """The planned differences of one structure and metric that have an interval; None where there are none."""
    chosen = (table["structure"] == structure) & (table["metric"] == metric) & table["planned"].astype(bool)
    # Of distances the typical difference: the mean is moved by one penalty.
    columns = ("difference", "low", "high")
    if not MEASURES[metric].bounded:
        columns = ("hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high")
    estimate, low, high = columns
    rows = tuple(
        (
            f"{shorten(r['one'])}\n\u2212 {shorten(r['other'])}",
            float(r[estimate]),
            float(r[low]),
            float(r[high]),
        )
        for r in table[chosen].to_dict("records")
        if all(math.isfinite(r[column]) for column in columns)
    )
    if not rows:
        return None
    measure = MEASURES[metric]
    title = f"{structure}, {measure.named}: planned differences"
    margin = float(table.loc[chosen, "margin"].iloc[0])
    sides = ("second better", "first better") if measure.higher_is_better else ("first better", "second better")
    axis = f"← {sides[0]} · {measure.named} · {sides[1]} →"
    return Forest(f"forest-{number_of}", title, rows, margin, axis, measure.higher_is_better)


def forest_reading(figure: Forest) -> str:
    """One sentence that says how to read a forest of differences."""
    side = "right" if figure.higher_is_better else "left"
    what = "mean difference" if figure.higher_is_better else "typical difference (Hodges-Lehmann)"
    return (
        f"Square: {what}; line: its 95 % interval; {side} of zero the first arm is better; grey: the "
        "margin of no practical matter."
    )


def panel_reading(panel: Panel) -> str:
    """One sentence that says how to read a violin panel."""
    patients = max(len(row.points) for row in panel.rows)
    lost = sum(point.failed for row in panel.rows for point in row.points)
    text = f"Each mark is one of {counted(patients, 'case')}, in the same lane in every row; further "
    text += "right is better" if panel.higher_is_better else "left is better"
    return f"{text}; {counted(lost, 'cross', 'crosses')} without a usable mask." if lost else f"{text}."
