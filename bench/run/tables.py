"""Gathers what the steps left behind into the tables of the run folder; readers need nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from gtvbench.bench.core.events import PhaseDone
from gtvbench.bench.files.store import Store, publish_file, write_atomically
from gtvbench.bench.processes.arm_work import ArmWork
from gtvbench.bench.study.arms import Arm
from gtvbench.bench.study.record import ArmRecord

SCORE_COLUMNS = [
    "arm", "method", "fusion", "seed", "fold", "case", "patient", "structure", "scope", "metric", "value", "raw",
    "status",
]  # fmt: skip
TIMING_COLUMNS = ["case", "slice", "stage", "boxes", "seconds", "device", "host"]
PROMPT_COLUMNS = ["case", "slice", "structure", "instance", "y0", "x0", "y1", "x1", "area"]


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, or as CSV where the name says so, atomically."""
    publish_file(path, partial(frame.to_csv if path.suffix == ".csv" else frame.to_parquet, index=False))


def write_json(value: Any, path: Path) -> None:
    """Write JSON atomically."""
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_prompts(store: Store, rows: Iterable[dict[str, Any]]) -> None:
    """prompts.parquet: every prompt of every case."""
    write_table(pd.DataFrame(list(rows), columns=PROMPT_COLUMNS), store.folder / "prompts.parquet")


def score_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of one arm as a table, which takes a twentieth of their memory: each text is there once."""
    frame = pd.DataFrame(rows, columns=SCORE_COLUMNS)
    frame[["value", "raw"]] = frame[["value", "raw"]].astype(float)
    for column in set(SCORE_COLUMNS) - {"seed", "fold", "value", "raw"}:
        frame[column] = frame[column].astype("category").astype(object)
    return frame


def write_scores(store: Store, tables: Sequence[pd.DataFrame]) -> None:
    """scores.parquet and scores.csv, the long table, from those of the arms."""
    frame = pd.concat(tables, ignore_index=True) if tables else score_table([])
    write_table(frame, store.folder / "scores.parquet")
    write_table(frame, store.folder / "scores.csv")


def write_timing(store: Store, arm: str, works: Sequence[ArmWork], records: dict[str, dict[str, Any]]) -> None:
    """timing.parquet of one arm, from the records of its predictions and of its last loading (in each fold)."""
    rows = []
    for loading in (store.arm_folder(work.arm.unit) / "load.json" for work in works):
        if loading.exists():
            rows += _timed("", "rows", json.loads(loading.read_text()))
    for case, record in records.items():
        rows += _timed(case, "timing", record)
    write_table(pd.DataFrame(rows, columns=TIMING_COLUMNS), store.arm_folder(arm) / "timing.parquet")


def _timed(case: str, rows: str, record: Any) -> list[dict[str, Any]]:
    """Rows of a record with where they were measured; an older record does not say, and may be the rows alone."""
    if isinstance(record, list):
        record = {rows: record}
    origin = record.get("origin", {})
    where = {"device": origin.get("device_name"), "host": origin.get("host")}
    return [{"case": case, **row, **where} for row in record[rows]]


def note_phase(store: Store, unit: str, event: PhaseDone, identity: str) -> None:
    """Keep what a phase of an arm, or a fold of it, took in process.json: the most of all sessions that did the same
    (`identity`) on the same machine, else the last one's."""
    path = store.arm_folder(unit) / "process.json"
    phases = _phases(store, unit)
    facts: dict[str, Any] = asdict(event) | {"identity": identity}
    before = phases.get(facts.pop("phase"))
    if before is not None and all(before.get(name) == facts[name] for name in ("origin", "identity")):
        for name in ("peak_host_bytes", "peak_device_bytes"):
            facts[name] = max(before[name] or 0, facts[name] or 0) or None
    write_json(phases | {event.phase: facts}, path)


def _phases(store: Store, unit: str) -> dict[str, Any]:
    """process.json of an arm or a fold; one of an older version, which knew no phases, counts as none."""
    path = store.arm_folder(unit) / "process.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {name: facts for name, facts in found.items() if isinstance(facts, dict)}


def arm_record(store: Store, arm: Arm, works: Sequence[ArmWork], status: str, reason: str | None) -> dict[str, Any]:
    """The row of arms.json: memory is the most of all folds, time the sum of them."""
    phases = [_phases(store, work.arm.unit) for work in works]
    training, predicting = ([part[name] for part in phases if name in part] for name in ("fit", "predict"))
    fits = [store.record(f"fit/{work.arm.unit}", work.fit.key) for work in works if work.fit is not None]
    fitted = [record for record in fits if record is not None]
    whole = bool(fitted) and len(fitted) == len(fits)
    devices = {part.get("origin", {}).get("device") for part in predicting}
    weights = {"name": arm.weights_name, "sha256": arm.weights_sha256, "published": arm.weights_published}
    record = ArmRecord(
        arm=arm.name,
        method=arm.method,
        adapter=arm.adapter,
        fusion=arm.fusion,
        seed=arm.seed_index,
        status=status,
        reason=reason,
        trains=arm.trains,
        prompts=arm.prompts,
        cut_schedule=arm.cut,
        weights=weights if arm.weights_name is not None else {},
        options=arm.options,
        peak_host_bytes=_most(predicting, "peak_host_bytes"),
        peak_device_bytes=_most(predicting, "peak_device_bytes"),
        fit_peak_host_bytes=_most(training, "peak_host_bytes"),
        fit_peak_device_bytes=_most(training, "peak_device_bytes"),
        device=devices.pop() if len(devices) == 1 else None,
        preparation_seconds=_sum([record.get("preparation_seconds") for record in fitted]) if whole else None,
        fit_seconds=_sum([_fit_seconds(store, work.arm.unit) for work in works]) if whole else None,
        best_epoch=(fitted[0].get("facts") or {}).get("best_epoch") if whole and len(works) == 1 else None,
        folds=len(works) if len(works) > 1 else None,
    )
    return record.model_dump(mode="json", by_alias=True) | {"weights": record.weights or None}


def _most(phases: Sequence[Mapping[str, Any]], name: str) -> Any:
    return max((part[name] for part in phases if part.get(name) is not None), default=None)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _fit_seconds(store: Store, unit: str) -> float | None:
    path = store.arm_folder(unit) / "fit" / "epochs.csv"
    return float(pd.read_csv(path)["seconds"].sum()) if path.exists() else None
