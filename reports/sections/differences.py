"""Differences between arms and how firm their ranking is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from gtvbench.reports import contrasts, figures, layout, prose, static
from gtvbench.reports.book import Book, Shown
from gtvbench.reports.load import Run


def differences(
    run: Run, table: pd.DataFrame, ranked: Sequence[Mapping[str, Any]], book: Book
) -> dict[str, Any]:
    """Context of the sections on differences and on ranking."""
    options = contrasts.statistics_of(run)
    return {
        "differences": [_of_structure(table, s, k, book) for k, s in enumerate(run.structures)],
        "resamples": options.resamples,
        "margins": prose.margins(options),
    }


def _of_structure(table: pd.DataFrame, structure: str, index: int, book: Book) -> dict[str, Any]:
    def listed(metric: str, planned: bool) -> layout.Table:
        name = f"{'planned' if planned else 'exploratory'}-{metric.split('_')[0]}-{index}"
        return layout.contrast_table(table, structure, metric, planned, name)

    return {
        "structure": structure,
        "reading": prose.contrast_reading(table, structure),
        "forests": _forests(table, structure, index, book),
        "planned": [listed(metric, True) for metric in contrasts.PRIMARY],
        "exploratory": [listed(metric, False) for metric in contrasts.PRIMARY],
    }


def _forests(table: pd.DataFrame, structure: str, index: int, book: Book) -> list[Shown]:
    shown = []
    for metric, higher in contrasts.PRIMARY.items():
        drawn = figures.forest(table, structure, metric, higher, 2 * index + len(shown))
        if drawn is not None:
            reading = figures.forest_reading(drawn)
            shown.append(book.figure(drawn.id, drawn.title, reading, partial(static.forest, drawn)))
    return shown
