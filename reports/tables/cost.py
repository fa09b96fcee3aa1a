"""Tables of time, memory and training."""

from __future__ import annotations

import pandas as pd

from gtvbench.reports.analysis.cost import STAGES
from gtvbench.reports.run.load import EPOCH_COLUMNS
from gtvbench.reports.tables.table import Cell, Table, row_of
from gtvbench.reports.text.numbers import ABSENT, duration, finite, gigabytes, number


def epochs_table(table: pd.DataFrame) -> Table:
    """Times of training."""
    rows = [
        row_of(
            str(r["arm"]), duration(r["preparation_s"]), str(r["epochs"]), duration(r["first_epoch_s"]),
            duration(r["median_s"]), duration(r["epochs_total_s"]),
            ABSENT if not finite(r["best_epoch"]) else f"{r['best_epoch']:.0f}",
            number(r["lowest_validation_loss"], 4), Cell(str(r["schedule"]), wordy=True),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = (
        "Arm", "Preparation", "Epochs", "Epoch 0", "Later epochs, median", "All epochs", "Kept epoch", "Lowest loss",
        "Schedule",
    )  # fmt: skip
    return Table("epochs", "Training time; the loss is the validation loss", head, tuple(rows))


def stages_table(table: pd.DataFrame) -> Table:
    """Times of prediction, every stage."""
    rows = [
        row_of(
            str(r["arm"]), Cell(STAGES[r["stage"]], wordy=True), str(r["n"]), duration(r["median_s"]),
            f"{duration(r['q1_s'])} to {duration(r['q3_s'])}", duration(r["p95_s"]),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = ("Arm", "Stage", "n", "median", "IQR", "95th percentile")
    return Table("stages", "Every stage", head, tuple(rows))


def prediction_table(table: pd.DataFrame) -> Table:
    """Times of prediction, one row an arm: median and 95th percentile of its main stages."""
    used = [stage for stage in ("slice", "box", "segment", "case") if (table["stage"] == stage).any()]
    indexed = table.set_index(["arm", "stage"])
    rows = []
    for arm in dict.fromkeys(table["arm"].astype(str)):
        cells = [arm]
        for stage in used:
            known = (arm, stage) in indexed.index
            cells += [duration(indexed.loc[(arm, stage), c]) if known else ABSENT for c in ("median_s", "p95_s")]
        rows.append(row_of(*cells))
    groups = (("", 1), *((STAGES[stage], 2) for stage in used))
    head = ("Arm", *["median", "95th percentile"] * len(used))
    return Table("prediction", "Prediction time", head, tuple(rows), groups)


def resources_table(table: pd.DataFrame) -> Table:
    """Loading, warm-up, throughput and memory."""
    rows = []
    for r in table.to_dict("records"):
        batch = f" ({r['batch_slices']:.0f} a batch)" if finite(r["batch_slices"]) else ""
        rows.append(
            row_of(
                str(r["arm"]), Cell(str(r["device"] or ABSENT), wordy=True), duration(r["load_s"]),
                f"{r['warmup_calls']}", duration(r["first_call_s"]), f"{_rate(r['slices_per_s'])}{batch}",
                _rate(r["boxes_per_s"]), gigabytes(r["peak_host_bytes"]), gigabytes(r["peak_device_bytes"]),
            )
        )  # fmt: skip
    head = (
        "Arm", "Device", "Loading", "Warm-up calls", "First call", "Slices a second", "Boxes a second", "Peak memory",
        "Peak on device",
    )  # fmt: skip
    return Table("resources", "Loading, warm-up, batches and memory", head, tuple(rows))


def _rate(value: object) -> str:
    return number(value, 1 if finite(value) and float(str(value)) < 100 else 0)


def training_table(table: pd.DataFrame, arm: str, name: str) -> Table:
    """The numbers behind the training curves, and what else the method recorded (nnU-Net's pseudo-Dice)."""
    more = [str(column) for column in table.columns if column not in EPOCH_COLUMNS]
    rows = [
        row_of(
            str(int(r["epoch"])),
            number(r["train_loss"], 4),
            number(r["validation_loss"], 4),
            *[number(r[column], 4) for column in more],
            duration(r["seconds"]),
        )
        for r in table.sort_values("epoch").to_dict("records")
    ]
    head = (
        "Epoch",
        "training loss",
        "validation loss",
        *[c.replace("pseudo_dice", "pseudo-Dice") for c in more],
        "time",
    )
    return Table(name, f"{arm}: every epoch", head, tuple(rows))
