"""Tables of time and memory, from each arm's epochs and timing records; seconds and bytes throughout."""

from __future__ import annotations

import pandas as pd

from gtvbench.reports.run.load import FinishedRun

#: Arms of one method do the same work: above this ratio of their times the machine was busy with something else.
_SAME_WORK = 2.0

#: Stages of the timing table that are summarised as a distribution, and what one observation is.
STAGES = {
    "encode": "Encode, per slice",
    "decode": "Decode, per slice",
    "slice": "Encode and decode, per slice",
    "box": "Encode and decode, per box",
    "segment": "Network, per volume",
    "case": "Whole case",
}


def epoch_summary(run: FinishedRun) -> pd.DataFrame:
    """For each trained arm: epochs, the first one's time, median of the others, total, best epoch (losses: lowest).

    The first epoch is kept apart, because it also pays for caches, compilation and memory.
    """
    rows = []
    for arm in run.arms:
        table = run.epochs.get(arm.name)
        if table is None:
            continue
        table = table.sort_values("epoch")
        seconds, losses = table["seconds"], table["validation_loss"].dropna()
        rows.append(
            {
                "arm": arm.name,
                "epochs": len(table),
                "first_epoch_s": float(seconds.iloc[0]),
                "median_s": float(seconds.iloc[1:].median()) if len(table) > 1 else float("nan"),
                "epochs_total_s": float(seconds.sum()),
                "preparation_s": arm.preparation_seconds or None,
                "best_epoch": arm.best_epoch,
                "lowest_validation_loss": float(losses.min()) if len(losses) else float("nan"),
                "schedule": arm.cut_schedule or "full",
            }
        )
    columns = [
        "arm", "preparation_s", "epochs", "first_epoch_s", "median_s", "epochs_total_s", "best_epoch",
        "lowest_validation_loss", "schedule",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _observations(run: FinishedRun, arm: str) -> dict[str, pd.Series[float]]:
    """Seconds of each stage of STAGES that the arm has."""
    timing = run.timing.get(arm)
    if timing is None:
        return {}
    found = {
        stage: timing.loc[timing["stage"] == stage, "seconds"] for stage in ("encode", "decode", "segment", "case")
    }
    walked = timing[timing["stage"].isin(["encode", "decode"])]
    if len(walked):
        found["slice"] = walked.groupby(["case", "slice"])["seconds"].sum()
        boxes = timing[timing["stage"] == "decode"].groupby(["case", "slice"])["boxes"].sum()
        boxes = boxes[boxes > 0]
        found["box"] = (found["slice"].reindex(boxes.index) / boxes).dropna()
    return {stage: found[stage] for stage in STAGES if stage in found and len(found[stage])}


def stage_summary(run: FinishedRun) -> pd.DataFrame:
    """Distribution of each stage's time for each arm, at batch 1, warm-up calls left out: n, median, IQR, p95."""
    rows = []
    for arm in run.arm_names:
        for stage, seconds in _observations(run, arm).items():
            rows.append(
                {
                    "arm": arm,
                    "stage": stage,
                    "n": len(seconds),
                    "median_s": float(seconds.median()),
                    "q1_s": float(seconds.quantile(0.25)),
                    "q3_s": float(seconds.quantile(0.75)),
                    "p95_s": float(seconds.quantile(0.95)),
                }
            )
    return pd.DataFrame(rows, columns=["arm", "stage", "n", "median_s", "q1_s", "q3_s", "p95_s"])


def seconds_per_slice(run: FinishedRun, arm: str) -> float | None:
    """Median seconds for one slice: encode + decode where slices are walked, else case time / slices of the grid."""
    found = _observations(run, arm)
    if "slice" in found:
        return float(found["slice"].median())
    if "segment" not in found:
        return None
    volumes = run.timing[arm]
    volumes = volumes[volumes["stage"] == "case"]
    shares = [
        float(seconds) / slices
        for case, seconds in zip(volumes["case"], volumes["seconds"], strict=True)
        if (slices := run.slices_of(str(case)))
    ]
    return float(pd.Series(shares).median()) if shares else None


def disturbed(run: FinishedRun) -> float | None:
    """How many times slower one arm of a method is than another of it, by median slice; None below a factor of two.

    Arms of a method that differ in the fusion alone do the same work: a large ratio says that the machine was busy.
    """
    medians: dict[tuple[str, str], list[float]] = {}
    for arm in run.scored_arms:
        if arm.box_only or (found := _observations(run, arm.name).get("slice")) is None:
            continue
        medians.setdefault((arm.method, str(arm.device)), []).append(float(found.median()))
    ratios = [max(values) / min(values) for values in medians.values() if min(values) > 0]
    worst = max(ratios, default=1.0)
    return worst if worst > _SAME_WORK else None


def resources(run: FinishedRun) -> pd.DataFrame:
    """For each arm that ran: device, loading, warm-up (calls, first call), batched throughput, peak memory."""
    rows = []
    for arm in run.arms:
        timing = run.timing.get(arm.name)
        if arm.status == "skipped" or (timing is None and arm.peak_host_bytes is None):
            continue
        by_stage = {} if timing is None else {str(stage): part for stage, part in timing.groupby("stage")}
        load, warm, batched = by_stage.get("load"), by_stage.get("warmup"), by_stage.get("throughput")
        rows.append(
            {
                "arm": arm.name,
                "device": arm.device,
                "load_s": None if load is None else float(load["seconds"].sum()),
                "warmup_calls": 0 if warm is None else len(warm),
                "first_call_s": None if warm is None else float(warm["seconds"].iloc[0]),
                **_throughput(batched),
                "peak_host_bytes": arm.peak_host_bytes,
                "peak_device_bytes": arm.peak_device_bytes,
            }
        )
    columns = [
        "arm", "device", "load_s", "warmup_calls", "first_call_s", "batch_slices", "slices_per_s", "boxes_per_s",
        "peak_host_bytes", "peak_device_bytes",
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
