"""Training curves: losses on training and validation patients, never test results."""

from __future__ import annotations

import math
from functools import partial

import pandas as pd

from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.figures import static_charts, violins
from gtvbench.reports.figures.charts import Axis, Chart, Dash, Rule, Series
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.tables import cost
from gtvbench.reports.text.numbers import counted


def training(run: FinishedRun, collected: Collected) -> list[Shown]:
    """A chart for each trained arm, its folds in one, with every epoch's numbers as its table."""
    colours = violins.styles(run.arms)
    shown: list[Shown] = []
    for arm in run.arms:
        if arm.name not in run.epochs:
            continue
        table = run.epochs[arm.name].sort_values(["fold", "epoch"] if arm.folds else "epoch")
        chart = curves(table, arm, colours[arm.name][0], f"training-{len(shown)}")
        values = cost.training_table(table, arm.name, f"{chart.id}-values")
        shown.append(
            collected.figure(chart.id, chart.title, chart.reading, partial(static_charts.chart, chart), values)
        )
    return shown


def curves(table: pd.DataFrame, arm: ArmRecord, colour: str, name: str) -> Chart:
    """Losses of one arm by epoch, a line for each of its folds; a value that is not finite is a gap."""
    parts = [part for _, part in table.groupby("fold")] if arm.folds else [table]
    epochs = tuple(float(e) for e in sorted(table["epoch"].unique()))
    series, values = [], []
    lines: tuple[tuple[str, str, Dash, str], ...] = (
        ("training loss", "train_loss", "solid", "circle"),
        ("validation loss", "validation_loss", "dash", "square"),
    )
    for label, column, dash, marker in lines:
        for part in parts:
            losses = tuple(round(float(v), 6) if math.isfinite(v) else None for v in part[column].astype(float))
            values += [v for v in losses if v is not None]
            at, first = tuple(float(e) for e in part["epoch"]), part is parts[0]
            series.append(Series("line", label, colour, at, losses, dash=dash, marker=marker, legend=first))
    # nnU-Net's loss, cross-entropy minus Dice, goes below zero.
    top = 1.06 * max(values, default=1.0)
    span = (0.0, top) if values and min(values) >= 0 and top > 0 else None
    ticks = tuple((e, f"{e:.0f}") for e in epochs) if len(epochs) <= 8 else ()
    best = () if arm.best_epoch is None else (Rule("x", float(arm.best_epoch), "dot"),)
    return Chart(
        name, f"Training curves of {violins.shorten(arm.name)}", _reading(len(epochs), arm),
        Axis("epoch", ticks=ticks, whole=True), Axis("loss", range=span), tuple(series), best,
    )  # fmt: skip


def _reading(epochs: int, arm: ArmRecord) -> str:
    kept = "" if arm.best_epoch is None else f"; the dotted line marks epoch {arm.best_epoch}, which was kept"
    folds = f", a line for each of {arm.folds} folds," if arm.folds else ""
    return f"Losses over {counted(epochs, 'epoch')}{folds} on training and validation patients{kept}; not test results."
