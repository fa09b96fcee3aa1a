"""The metrics as the page names them: title, axis, decimals, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from gtvbench.bench.core.scores import HIGHER_IS_BETTER


@dataclass(frozen=True)
class Measure:
    """`title` in headings, `named` with its unit, `digits` of a value; one without a unit lies between 0 and 1."""

    metric: str
    title: str
    unit: str
    digits: int

    @property
    def named(self) -> str:
        """Title with the unit."""
        return f"{self.title} in {self.unit}" if self.unit else self.title

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return HIGHER_IS_BETTER[self.metric]

    @property
    def bounded(self) -> bool:
        """Whether it lies between 0 and 1."""
        return not self.unit

    @property
    def axis(self) -> str:
        """Title of an axis that shows it."""
        return f"{self.named} ({1 if self.higher_is_better else 0} is best)"

    @property
    def short(self) -> str:
        """For ids and file names."""
        return self.metric.split("_")[0]


def main_scheme(metric: str) -> str:
    """The way to rank that the page shows first: by the mean, or by the median where one penalty would move a mean."""
    return "mean-then-rank" if MEASURES[metric].bounded else "median-then-rank"


MEASURES = {
    "dsc": Measure("dsc", "DSC", "", 3),
    "hd95_mm": Measure("hd95_mm", "HD95", "mm", 1),
    "nsd": Measure("nsd", "NSD", "", 3),
    "assd_mm": Measure("assd_mm", "ASSD", "mm", 2),
}
