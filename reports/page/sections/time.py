"""Time of prediction as a figure: what one slice and one case take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from gtvbench.reports.analysis.cost import STAGES
from gtvbench.reports.figures import static, violins
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.text.numbers import duration

_UNITS = {"slice": "one slice", "case": "one case"}


def time_figures(
    run: FinishedRun, stages: pd.DataFrame, costs: Mapping[str, float | None], collected: Collected
) -> list[Shown]:
    """For a slice and for a whole case: median and interquartile range of each arm, on a logarithmic axis.

    `costs` are seconds for one slice: a method that segments whole volumes stands there with its share of the case.
    """
    shown = []
    for stage, what in _UNITS.items():
        part = stages[(stages["stage"] == stage) & (stages["median_s"] > 0)]
        if part.empty:
            continue
        rows = tuple(
            (f"{violins.shorten(str(r['arm']))}: {duration(r['median_s'])}", r["median_s"], r["q1_s"], r["q3_s"])
            for r in part.to_dict("records")
        )
        timed = set(part["arm"].astype(str))
        if stage == "slice":
            shares = {n: c for n, c in costs.items() if c and n not in timed}
            rows += tuple((f"{violins.shorten(n)}: {duration(c)} (of the case)", c, c, c) for n, c in shares.items())
        drawn = violins.Forest(f"time-{stage}", f"Time for {what}", rows, None, "time, logarithmic", False)
        reading = f"{STAGES[stage]}: square, median; line, interquartile range; left is faster."
        shown.append(collected.figure(drawn.id, drawn.title, reading, partial(static.forest, drawn)))
    return shown
