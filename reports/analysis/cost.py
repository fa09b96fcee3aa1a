"""Tables of time and memory, from each arm's epochs and timing records; seconds and bytes throughout."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gtvbench.reports.run.load import TIMING_COLUMNS, FinishedRun

#: Arms of one method do the same work: above this ratio of their times the machine was busy with something else.
_SAME_WORK = 2.0

#: Stages of the timing table that are summarised as a distribution, and what one observation is. The first is the one
#: that methods of every kind share.
STAGES = {
    "case": "Whole case",
    "slice": "Encode and decode, per prompted slice",
    "box": "Encode and decode, per box",
    "encode": "Encode, per prompted slice",
    "decode": "Decode, per prompted slice",
    "preprocess": "Preprocess, per volume",
    "segment": "Network, per volume",
    "export": "Export, per volume",
}
_COUNTED_BY_CASE = ("case", "encode", "decode", "preprocess", "segment", "export")


def several_hosts(run: FinishedRun) -> bool:
    """Whether the times of a run are of more than one machine."""
    tables = [table for table in (*run.timing.values(), *run.epochs.values()) if "host" in table]
    return len({host for table in tables for host in table["host"].dropna().unique()}) > 1


def by_place(table: pd.DataFrame, hosts: bool) -> dict[str, pd.DataFrame]:
    """A table of times by where they were measured: name of the device, and with `hosts` the machine.

    What an older version recorded does not say, and stands under "".
    """
    if "device" not in table or table["device"].isna().all():
        return {"": table}
    device, host = table["device"].fillna("not recorded").astype(str), table["host"].fillna("?").astype(str)
    place = device + (" (machine " + host + ")" if hosts else "")
    return {str(name): part for name, part in table.groupby(place, sort=False)}


def epoch_summary(run: FinishedRun) -> pd.DataFrame:
    """For each trained arm and place: epochs, the first one's time, median of the others, total, best epoch (losses:
    lowest).

    The first epoch is kept apart, because it also pays for caches, compilation and memory. Of a cross-validation: of
    all folds together, the first epochs by their median.
    """
    rows, hosts = [], several_hosts(run)
    for arm in run.arms:
        table = run.epochs.get(arm.name)
        if table is None:
            continue
        losses = table["validation_loss"].dropna()
        for place, part in by_place(table.sort_values("epoch"), hosts).items():
            first = part["epoch"] == 0
            seconds, later = part["seconds"], part.loc[~first, "seconds"]
            rows.append(
                {
                    "arm": arm.name,
                    "device": place or arm.device,
                    "epochs": len(part),
                    "first_epoch_s": float(seconds[first].median()) if first.any() else float("nan"),
                    "median_s": float(later.median()) if len(later) else float("nan"),
                    "epochs_total_s": float(seconds.sum()),
                    "preparation_s": arm.preparation_seconds or None,
                    "best_epoch": arm.best_epoch,
                    "lowest_validation_loss": float(losses.min()) if len(losses) else float("nan"),
                    "schedule": (arm.cut_schedule or "full") + (f", {arm.folds} folds together" if arm.folds else ""),
                }
            )
    columns = [
        "arm", "device", "preparation_s", "epochs", "first_epoch_s", "median_s", "epochs_total_s", "best_epoch",
        "lowest_validation_loss", "schedule",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _observations(timing: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Seconds of each stage of STAGES that one arm has in one place."""
    found = {stage: timing.loc[timing["stage"] == stage, "seconds"] for stage in _COUNTED_BY_CASE}
    walked = timing[timing["stage"].isin(["encode", "decode"])]
    if len(walked):
        found["slice"] = walked.groupby(["case", "slice"])["seconds"].sum()
        boxes = timing[timing["stage"] == "decode"].groupby(["case", "slice"])["boxes"].sum()
        boxes = boxes[boxes > 0]
        found["box"] = (found["slice"].reindex(boxes.index) / boxes).dropna()
    return {stage: found[stage] for stage in STAGES if stage in found and len(found[stage])}


def stage_summary(run: FinishedRun) -> pd.DataFrame:
    """Distribution of each stage's time for each arm and place, warm-up left out: n, median, IQR, p95.

    Times of different devices or machines are never pooled.
    """
    rows, hosts = [], several_hosts(run)
    for arm in run.arms:
        for place, timing in by_place(_of_cases(run, arm.name), hosts).items():
            for stage, seconds in _observations(timing).items():
                rows.append(
                    {
                        "arm": arm.name,
                        "device": place or arm.device,
                        "stage": stage,
                        "n": len(seconds),
                        "median_s": float(seconds.median()),
                        "q1_s": float(seconds.quantile(0.25)),
                        "q3_s": float(seconds.quantile(0.75)),
                        "p95_s": float(seconds.quantile(0.95)),
                    }
                )
    return pd.DataFrame(rows, columns=["arm", "device", "stage", "n", "median_s", "q1_s", "q3_s", "p95_s"])


def _of_cases(run: FinishedRun, arm: str) -> pd.DataFrame:
    """The rows of an arm's timing table that belong to cases; loading and warm-up belong to none."""
    timing = run.timing.get(arm)
    return pd.DataFrame(columns=list(TIMING_COLUMNS)) if timing is None else timing[timing["case"] != ""]


def seconds_per_case(stages: pd.DataFrame) -> dict[str, float]:
    """Median wall seconds of a whole case for each arm of `stage_summary` that was timed in one place only."""
    whole = stages[stages["stage"] == "case"]
    return {str(arm): float(part["median_s"].iloc[0]) for arm, part in whole.groupby("arm") if len(part) == 1}


def disturbed(run: FinishedRun, stages: pd.DataFrame) -> float | None:
    """How many times slower one arm of a method is than another of it, by median slice; None below a factor of two.

    `stages` is what `stage_summary` gives. Arms of a method that differ in the fusion alone do the same work: on one
    device, a large ratio says that the machine was busy.
    """
    boxes = {arm.name for arm in run.arms if arm.box_only}
    slices = stages[(stages["stage"] == "slice") & ~stages["arm"].isin(boxes)]
    method = slices["arm"].map({arm.name: arm.method for arm in run.arms})
    medians = slices.groupby([method, slices["device"].fillna("")])["median_s"]
    ratios = (medians.max() / medians.min()).replace(np.inf, np.nan).dropna()
    worst = float(ratios.max()) if len(ratios) else 1.0
    return worst if worst > _SAME_WORK else None


def resources(run: FinishedRun) -> pd.DataFrame:
    """For each arm that ran: device, loading, warm-up, batched throughput, peak memory of predicting and training."""
    rows, hosts = [], several_hosts(run)
    for arm in run.arms:
        timing = run.timing.get(arm.name)
        if arm.status == "skipped" or (timing is None and arm.peak_host_bytes is None):
            continue
        by_stage = {} if timing is None else {str(stage): part for stage, part in timing.groupby("stage")}
        load, warm, batched = by_stage.get("load"), by_stage.get("warmup"), by_stage.get("throughput")
        places = list(by_place(timing, hosts)) if timing is not None else []
        rows.append(
            {
                "arm": arm.name,
                "device": ", ".join(place for place in places if place) or arm.device,
                "load_s": None if load is None else float(load["seconds"].sum()) / (arm.folds or 1),
                "warmup_s": None if warm is None else float(warm["seconds"].sum()) / (arm.folds or 1),
                **_throughput(batched),
                "peak_host_bytes": arm.peak_host_bytes,
                "peak_device_bytes": arm.peak_device_bytes,
                "fit_peak_host_bytes": arm.fit_peak_host_bytes,
                "fit_peak_device_bytes": arm.fit_peak_device_bytes,
            }
        )
    columns = [
        "arm", "device", "load_s", "warmup_s", "batch_slices", "slices_per_s", "boxes_per_s",
        "peak_host_bytes", "peak_device_bytes", "fit_peak_host_bytes", "fit_peak_device_bytes",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _throughput(rows: pd.DataFrame | None) -> dict[str, float | None]:
    """Slices and boxes a second of the batched rows, whose `slice` is the number of slices in the batch."""
    if rows is None or not float(rows["seconds"].sum()) > 0:
        return {"batch_slices": None, "slices_per_s": None, "boxes_per_s": None}
    seconds, slices = float(rows["seconds"].sum()), int(rows["slice"].clip(lower=0).sum())
    return {
        "batch_slices": int(rows["slice"].max()) if slices else None,
        "slices_per_s": slices / seconds if slices else None,
        "boxes_per_s": float(rows["boxes"].sum()) / seconds,
    }
