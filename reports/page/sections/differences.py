"""Differences between arms, planned and exploratory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import MEASURES
from gtvbench.reports.analysis.analysis import Results
from gtvbench.reports.figures import static, violins
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.sentences import caveats
from gtvbench.reports.tables import comparisons
from gtvbench.reports.tables.table import Table


def differences(results: Results, collected: Collected) -> list[dict[str, Any]]:
    """For each structure: figures, tables of planned and exploratory differences, and what to know of them."""
    metrics = results.options.primary_metrics
    return [_of_structure(results.contrasts, s, k, metrics, collected) for k, s in enumerate(results.structures)]


def _of_structure(
    table: pd.DataFrame, structure: str, index: int, metrics: Sequence[str], collected: Collected
) -> dict[str, Any]:
    def listed(metric: str, planned: bool) -> Table:
        name = f"{'planned' if planned else 'exploratory'}-{MEASURES[metric].short}-{index}"
        return comparisons.contrast_table(table, structure, metric, planned, name)

    return {
        "structure": structure,
        "reading": caveats.contrast_reading(table, structure),
        "forests": _forests(table, structure, index, metrics, collected),
        "planned": [listed(metric, True) for metric in metrics],
        "exploratory": [listed(metric, False) for metric in metrics],
    }


def _forests(
    table: pd.DataFrame, structure: str, index: int, metrics: Sequence[str], collected: Collected
) -> list[Shown]:
    shown = []
    for place, metric in enumerate(metrics):
        drawn = violins.forest(table, structure, metric, len(metrics) * index + place)
        if drawn is not None:
            reading = violins.forest_reading(drawn)
            shown.append(collected.figure(drawn.id, drawn.title, reading, partial(static.forest, drawn)))
    return shown
