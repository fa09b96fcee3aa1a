"""What every figure is drawn on: size, inks, and marks that tell their case.

Two inks are placeholders that the page turns into the theme's colours; in files they are plain dark and light grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gtvbench.reports.text.addresses import case_link

INK, FAINT, GRID, PAPER = "#16181b", "#5b6169", "#dcdfe3", "#fefefe"
MARKERS = {"circle": "o", "square": "s", "triangle-up": "^"}
WIDTH = 360


@dataclass(frozen=True)
class Mark:
    """What a mark of a figure says to the pointer, and where a click leads."""

    words: str
    link: str


class Canvas(Figure):
    """A figure of WIDTH x `height` units (1/72 inch) without a ground, and the marks of its lines by their SVG id."""

    def __init__(self, height: int) -> None:
        super().__init__(figsize=(WIDTH / 72, height / 72), dpi=72)
        self.patch.set_visible(False)
        self.height = height
        self.marks: dict[str, list[Mark]] = {}

    def bare_axes(self, left: float, right: float, top: float, bottom: float) -> Axes:
        """Axes without frame and ground, inside margins in units."""
        width, height = WIDTH - left - right, self.height - top - bottom
        axes = self.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(length=0, colors=INK)
        return axes

    def plot_marks(
        self,
        axes: Axes,
        points: Sequence[tuple[float, float]],
        words: Sequence[str],
        cases: Sequence[str],
        **style: Any,
    ) -> None:
        """Draw one mark a case at points (x, y), all finite; see Axes.plot for the style."""
        name = f"marks-{len(self.marks)}" if points else None  # without any, the line stands for the legend's sake
        axes.plot([x for x, _ in points], [y for _, y in points], linestyle="none", clip_on=False, gid=name, **style)
        if name is not None:
            self.marks[name] = [Mark(said, case_link(case)) for said, case in zip(words, cases, strict=True)]
