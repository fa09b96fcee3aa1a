"""What gathers while the page's sections are made: its figures, and the tables of numbers behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from gtvbench.reports.figures import vector
from gtvbench.reports.tables.table import Table


@dataclass(frozen=True)
class Shown:
    """A figure of the page, with the table of its values where it has one."""

    id: str
    title: str
    reading: str
    svg: Markup
    table: Table | None = None


@dataclass
class Collected:
    """Figures by name, ready to be drawn again as files, and tables of numbers by name."""

    figures: dict[str, Callable[[], Figure]] = field(default_factory=dict)
    frames: dict[str, pd.DataFrame] = field(default_factory=dict)

    def frame(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Add a table of numbers."""
        self.frames[name] = frame
        return frame

    def figure(
        self, name: str, title: str, reading: str, draw: Callable[[], Figure], table: Table | None = None
    ) -> Shown:
        """Add a figure and draw it for the page."""
        self.figures[name] = draw
        return Shown(name, title, reading, Markup(vector.inline(draw, name)), table)
