"""Distributions of the scores: a violin panel for each structure and primary metric (the study's Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from gtvbench.bench.core.scores import MEASURES
from gtvbench.reports.analysis import scores
from gtvbench.reports.figures import static, violins
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.tables.scores import values_table


def distributions(run: FinishedRun, wide: pd.DataFrame, metrics: Sequence[str], collected: Collected) -> list[Shown]:
    """Violin panels with the values of every case as their table."""
    shown: list[Shown] = []
    arms = run.scored_arms
    for structure in run.structures:
        for metric in metrics:
            panel = violins.panel(wide, structure, metric, arms, len(shown))
            if panel is None:
                continue
            values = scores.per_case(wide, structure, metric, [arm.name for arm in arms])
            measure = MEASURES[metric]
            caption = f"{structure}: {measure.named} of every case"
            shown_values = values_table(values, caption, measure.digits, f"{panel.id}-values")
            shown.append(
                collected.figure(
                    panel.id,
                    panel.title,
                    violins.panel_reading(panel),
                    partial(static.violins, panel),
                    shown_values,
                )
            )
    return shown
