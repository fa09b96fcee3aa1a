"""Time of prediction as a figure: what one case and one slice take."""

from __future__ import annotations

from functools import partial

import pandas as pd

from gtvbench.reports.analysis.cost import STAGES
from gtvbench.reports.figures import static, violins
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.text.numbers import duration

_UNITS = {"case": "one case", "slice": "one prompted slice"}


def time_figures(stages: pd.DataFrame, collected: Collected) -> list[Shown]:
    """For a whole case and for a prompted slice: median and interquartile range of each arm, on a logarithmic axis."""
    shown = []
    for stage, what in _UNITS.items():
        part = stages[(stages["stage"] == stage) & (stages["median_s"] > 0)]
        if part.empty:
            continue
        twice = part["arm"].duplicated(keep=False)
        names = part["arm"].astype(str).where(~twice, part["arm"].astype(str) + ", " + part["device"].astype(str))
        rows = tuple(
            (f"{violins.shorten(name)}: {duration(r['median_s'])}", r["median_s"], r["q1_s"], r["q3_s"])
            for name, r in zip(names, part.to_dict("records"), strict=True)
        )
        drawn = violins.Forest(f"time-{stage}", f"Time for {what}", rows, None, "time, logarithmic", False)
        reading = f"{STAGES[stage]}: square, median; line, interquartile range; left is faster."
        shown.append(collected.figure(drawn.id, drawn.title, reading, partial(static.forest, drawn)))
    return shown
