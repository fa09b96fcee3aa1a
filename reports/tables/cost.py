"""Tables of time, memory and training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from gtvbench.reports.analysis.cost import STAGES
from gtvbench.reports.run.load import EPOCH_COLUMNS
from gtvbench.reports.tables.table import Cell, Table, row_of
from gtvbench.reports.text.numbers import ABSENT, duration, finite, gigabytes, number


def epochs_table(table: pd.DataFrame) -> Table:
    """Times of training."""
    device = _devices(table)
    rows = [
        row_of(
            str(r["arm"]), *device(r), duration(r["preparation_s"]), str(r["epochs"]), duration(r["first_epoch_s"]),
            duration(r["median_s"]), duration(r["epochs_total_s"]),
            ABSENT if not finite(r["best_epoch"]) else f"{r['best_epoch']:.0f}",
            number(r["lowest_validation_loss"], 4), Cell(str(r["schedule"]), wordy=True),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = (
        "Arm", *device(None), "Preparation", "Epochs", "Epoch 0", "Later epochs, median", "All epochs", "Kept epoch",
        "Lowest loss", "Schedule",
    )  # fmt: skip
    return Table("epochs", "Training time; the loss is the validation loss", head, tuple(rows))


def stages_table(table: pd.DataFrame) -> Table:
    """Times of prediction, every stage."""
    device = _devices(table)
    rows = [
        row_of(
            str(r["arm"]), *device(r), Cell(STAGES[r["stage"]], wordy=True), str(r["n"]), duration(r["median_s"]),
            f"{duration(r['q1_s'])} to {duration(r['q3_s'])}", duration(r["p95_s"]),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = ("Arm", *device(None), "Stage", "n", "median", "IQR", "95th percentile")
    return Table("stages", "Every stage", head, tuple(rows))


def prediction_table(table: pd.DataFrame) -> Table:
    """Times of prediction, one row an arm and device: median and 95th percentile of its main stages, a case first."""
    device = _devices(table)
    used = [stage for stage in ("case", "slice", "box", "segment") if (table["stage"] == stage).any()]
    rows = []
    for (arm, _), part in table.groupby(["arm", table["device"].fillna("")], sort=False):
        timed = part.set_index("stage")
        cells = [str(arm), *device(part.iloc[0])]
        for stage in used:
            known = stage in timed.index
            cells += [duration(timed.loc[stage, c]) if known else ABSENT for c in ("median_s", "p95_s")]
        rows.append(row_of(*cells))
    head = ("Arm", *device(None), *["median", "95th percentile"] * len(used))
    groups = (("", 1 + len(device(None))), *((STAGES[stage], 2) for stage in used))
    return Table("prediction", "Prediction time", head, tuple(rows), groups)


def _devices(table: pd.DataFrame) -> Callable[[Any], list[Any]]:
    """The cell of a row's device, or the head of that column (None); no cell where all was measured on one device."""
    if table["device"].nunique() < 2:
        return lambda row: []
    return lambda row: ["Device"] if row is None else [Cell(str(row["device"] or ABSENT), wordy=True)]


def resources_table(table: pd.DataFrame) -> Table:
    """Loading, warm-up, throughput and memory."""
    device, rows = _devices(table), []
    for r in table.to_dict("records"):
        batch = f" ({r['batch_slices']:.0f} a batch)" if finite(r["batch_slices"]) else ""
        rows.append(
            row_of(
                str(r["arm"]), *device(r), duration(r["load_s"]),
                duration(r["warmup_s"]), f"{_rate(r['slices_per_s'])}{batch}", _rate(r["boxes_per_s"]),
                *(gigabytes(r[f"{phase}peak_{where}_bytes"]) for phase in ("", "fit_") for where in ("host", "device")),
            )
        )  # fmt: skip
    head = (
        "Arm", *device(None), "Loading", "Warm-up", "Slices a second", "Boxes a second", *["memory", "on device"] * 2,
    )  # fmt: skip
    groups = (("", 5 + len(device(None))), ("Peak, predicting", 2), ("Peak, training", 2))
    return Table("resources", "Loading, warm-up, batches and memory", head, tuple(rows), groups)


def _rate(value: object) -> str:
    return number(value, 1 if finite(value) and float(str(value)) < 100 else 0)


def training_table(table: pd.DataFrame, arm: str, name: str) -> Table:
    """The numbers behind the training curves, and what else the method recorded (nnU-Net's pseudo-Dice)."""
    more = [str(column) for column in table.columns if column not in (*EPOCH_COLUMNS, "device", "host")]
    head, by = ["Epoch"], ["epoch"]
    if "fold" in table:
        head, by = ["Fold", "Epoch"], ["fold", "epoch"]
        more.remove("fold")
    rows = [
        row_of(
            *[str(int(r[column])) for column in by],
            number(r["train_loss"], 4),
            number(r["validation_loss"], 4),
            *[number(r[column], 0 if column in ("fold", "network") else 4) for column in more],
            duration(r["seconds"]),
        )
        for r in table.sort_values(by).to_dict("records")
    ]
    head += ["training loss", "validation loss", *[c.replace("pseudo_dice", "pseudo-Dice") for c in more], "time"]
    return Table(name, f"{arm}: every epoch", tuple(head), tuple(rows))
