"""Tables of arms and scores: a frame of numbers in, cells as text out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gtvbench.reports.analysis.scores import best_arms
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.tables import published
from gtvbench.reports.tables.table import Cell, Table, between, row_of
from gtvbench.reports.text.numbers import ABSENT, duration, finite, number, percent, signed


def arms_table(run: FinishedRun) -> Table:
    """What each arm is: status, what it sees, what it was trained on, weights."""
    rows = []
    for arm in run.arms:
        training = "trained here" if arm.trains else "not trained here"
        if arm.trains and arm.cut_schedule:
            training += f", cut short ({arm.cut_schedule})"
        rows.append(
            row_of(
                arm.name,
                Cell(arm.status if not arm.reason else f"{arm.status}: {arm.reason}", wordy=True),
                Cell(arm.fusion if arm.fusion != "none" else "no image", wordy=True),
                Cell("box (oracle localisation)" if arm.box_prompted else "none", wordy=True),
                Cell(training, wordy=True),
                Cell(arm.weights_words or ABSENT, wordy=True),
            )
        )
    head = ("Arm", "Status", "Images", "Prompt", "Training", "Weights")
    return Table("arms", "The arms: a method with a fusion of images", head, tuple(rows))


def score_table(
    run: FinishedRun, summary: pd.DataFrame, structure: str, scope: str, costs: Mapping[str, float], name: str
) -> Table:
    """Scores of one structure and scope, one row an arm; `costs` are seconds for one case."""
    part = summary[(summary["structure"] == structure) & (summary["scope"] == scope)]
    best = {
        column: set(best_arms(part, structure, column, lowest)) if len(part) > 1 else set()
        for column, lowest in (
            ("dsc_mean", False), ("dsc_median", False), ("hd95_median_mm", True), ("nsd_mean", False),
            ("assd_median_mm", True), ("dsc_aggregated", False),
        )
    }  # fmt: skip

    def cell(row: Mapping[str, object], column: str, digits: int) -> Cell:
        return Cell(number(row[column], digits), strong=row["arm"] in best[column])

    rows = []
    for r in ({str(key): value for key, value in record.items()} for record in part.to_dict("records")):
        rows.append(
            row_of(
                str(r["arm"]),
                str(r["n"]),
                str(r["failed"]),
                Cell(_mean_sd(r, 3), r["arm"] in best["dsc_mean"]),
                cell(r, "dsc_median", 3),
                between(r["dsc_q1"], r["dsc_q3"], 3),
                number(r["dsc_min"], 3),
                cell(r, "dsc_aggregated", 3),
                cell(r, "hd95_median_mm", 1),
                percent(r["hd95_failure_rate"]),
                cell(r, "nsd_mean", 3),
                cell(r, "assd_median_mm", 2),
                signed(r["volume_difference_mean_ml"], 2),
                duration(costs.get(str(r["arm"]))),
            )
        )
    tolerance = run.tolerance(structure)
    groups = (
        ("", 1), ("Cases", 2), ("DSC", 5), ("HD95", 2), ("NSD", 1),
        ("ASSD", 1), ("Volume difference", 1), ("Time", 1),
    )  # fmt: skip
    head = (
        "Arm", "n", "failed", "mean ± SD", "median", "IQR", "min", "aggregated", "median, mm", "failed",
        f"mean, at {tolerance:g} mm" if tolerance is not None else "mean", "median, mm", "mean, mL", "per case",
    )  # fmt: skip
    where = "whole volume" if scope == "volume" else "prompted slices only"
    return Table(name, f"{structure}, {where}", head, tuple(rows), groups)


def false_positive_table(table: pd.DataFrame) -> Table:
    """False positives where the reference lacks the structure."""
    rows = [
        row_of(
            str(r["arm"]), Cell(str(r["structure"]), wordy=True), str(r["cases"]), str(r["false_positive"]),
            str(r["no_mask"]), percent(r["rate"]), number(r["volume_median_ml"], 2), number(r["volume_max_ml"], 2),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = ("Arm", "Structure", "Cases", "false positive", "no mask", "rate", "median, mL", "largest, mL")
    caption = "Cases whose reference lacks the structure"
    return Table("absent", caption, head, tuple(rows))


def values_table(values: pd.DataFrame, caption: str, digits: int, name: str) -> Table:
    """The numbers behind a violin panel: a row a case, a column an arm."""
    rows = [
        row_of(str(case), *(number(value, digits) for value in record))
        for case, record in zip(values.index, values.to_numpy(float).tolist(), strict=True)
    ]
    return Table(name, caption, ("Case", *map(str, values.columns)), tuple(rows))


def published_table(run: FinishedRun, summary: pd.DataFrame) -> Table:
    """The study's mean DSC beside ours, of arms with its weights; arms that only one side has keep their row."""
    records = summary[summary["scope"] == "volume"].to_dict("records")
    volume = {(str(r["arm"]), str(r["structure"])): r for r in records}
    head = ["Arm"]
    groups = [("", 1)]
    for structure in run.structures:
        groups.append((structure, 2))
        head += ["published", "here"]
    rows = []
    for (method, fusion), results in published.RESULTS.items():
        ours = [
            arm.name
            for arm in run.scored_arms
            if (arm.kind, arm.fusion) == (method, fusion) and published.has_weights(arm)
        ]
        for name in ours or [f"{method}.{fusion}"]:
            cells = [name]
            for structure in run.structures:
                mean, spread = results[structure]
                cells.append(f"{mean:.2f} ± {spread:.2f}")
                row = volume.get((name, structure)) if ours else None
                cells.append(f"{_mean_sd(row, 2)} (n = {row['n']})" if row is not None else ABSENT)
            rows.append(row_of(*cells))
    return Table("published", published.caption(run), tuple(head), tuple(rows), tuple(groups))


def _mean_sd(row: Mapping[Any, Any], digits: int) -> str:
    spread = f" ± {number(row['dsc_sd'], digits)}" if finite(row["dsc_sd"]) else ""
    return number(row["dsc_mean"], digits) + spread
