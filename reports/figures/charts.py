"""Charts as data: series of points, lines and bands over two axes.

A series is told apart by its dash or marker as well as by its colour; colours are those of `figures.styles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Numbers = tuple[float | None, ...]
Dash = Literal["solid", "dash", "dot", "dashdot"]


@dataclass(frozen=True)
class Series:
    """One line, set of points or band.

    `y` is the lower edge of a band and `upper` its upper one. None in `x` or `y` is a gap. Points have `words`, shown
    at the pointer, and `cases`, whose page a click opens.
    """

    kind: Literal["line", "steps", "points", "band"]
    name: str
    colour: str
    x: Numbers
    y: Numbers
    upper: Numbers = ()
    dash: Dash = "solid"
    marker: str | None = None
    words: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    legend: bool = False
    #: Many points: drawn small and pale, so that lines are seen.
    pale: bool = False


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart at one value of an axis, with an optional label at its end."""

    axis: Literal["x", "y"]
    at: float
    dash: Dash = "solid"
    label: str = ""


@dataclass(frozen=True)
class Axis:
    """Title, scale, range and ticks (value, text) of an axis; None leaves range or ticks to the drawing library."""

    title: str
    log: bool = False
    range: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart: `reading` is the sentence that says how to read it, `height` is in px."""

    id: str
    title: str
    reading: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()
    height: int = 300
