"""The tables and records of a run folder, read once and checked, as everything else in this room uses them.

Only files that the runner writes at the top and under arms/ are read; no volume is needed to render a report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gtvbench.bench.core.errors import StoreError

SCORE_COLUMNS = (
    "arm", "method", "fusion", "seed", "case", "patient", "structure", "scope", "metric", "value", "raw", "status",
)  # fmt: skip
TIMING_COLUMNS = ("case", "slice", "stage", "boxes", "seconds")
EPOCH_COLUMNS = ("epoch", "train_loss", "validation_loss", "seconds")

#: Methods whose mask is the prompt itself: what the box alone gives away.
BOX_ONLY = ("box-fill", "box-ellipse")

_UNFINISHED = "the run is under way or was interrupted: start the same `bench run` again, it does only what is missing"


@dataclass(frozen=True)
class Arm:
    """One method with one fusion, and how it ended; fields as in arms.json."""

    name: str
    method: str
    fusion: str
    status: str
    reason: str | None = None
    trains: bool = False
    prompts: tuple[str, ...] = ()
    stand_in: bool = False
    cut_schedule: str | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: str = ""
    seed: int | None = None
    device: str | None = None
    peak_host_bytes: float | None = None
    peak_device_bytes: float | None = None
    preparation_seconds: float | None = None
    best_epoch: int | None = None

    @property
    def box_prompted(self) -> bool:
        """Whether the method is told where the target is."""
        return "box" in self.prompts

    @property
    def kind(self) -> str:
        """Registered name of the method; `method` is the study's own name for it."""
        return self.adapter or self.method

    @property
    def box_only(self) -> bool:
        """Whether the method is the prompt and nothing else."""
        return self.kind in BOX_ONLY

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Arm:
        """Read one record of arms.json; KeyError where the name is missing."""
        return cls(
            name=str(record["arm"]),
            method=str(record.get("method") or record["arm"]),
            fusion=str(record.get("fusion") or "none"),
            status=str(record.get("status") or "unknown"),
            reason=record.get("reason"),
            trains=bool(record.get("trains")),
            prompts=tuple(str(p) for p in record.get("prompts") or ()),
            stand_in=bool(record.get("stand_in_weights")),
            cut_schedule=record.get("cut_schedule"),
            weights=record.get("weights") or {},
            options=record.get("options") or {},
            adapter=str(record.get("adapter") or ""),
            seed=record.get("seed"),
            device=record.get("device"),
            peak_host_bytes=record.get("peak_host_bytes"),
            peak_device_bytes=record.get("peak_device_bytes"),
            preparation_seconds=record.get("preparation_seconds"),
            best_epoch=record.get("best_epoch"),
        )


@dataclass(frozen=True)
class Run:
    """A run folder in memory; `timing` and `epochs` hold a table for each arm that has one."""

    study: Mapping[str, Any]
    provenance: Mapping[str, Any]
    arms: tuple[Arm, ...]
    failures: tuple[Mapping[str, Any], ...]
    scores: pd.DataFrame
    timing: Mapping[str, pd.DataFrame]
    epochs: Mapping[str, pd.DataFrame]
    prompts: pd.DataFrame | None
    #: Where the files of an arm lie: its name -> (run folder, its name there).
    origins: Mapping[str, tuple[Path, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.study.get("study") or "study")

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures in the order of their values, then any other that has scores."""
        declared: Mapping[str, Any] = self.provenance.get("structures") or self.study.get("structures") or {}
        names = sorted((str(name) for name in declared), key=lambda name: (declared[name], name))
        scored = sorted(set(self.scores["structure"]))
        return tuple(names + [name for name in scored if name not in names])

    @property
    def subsets(self) -> dict[str, list[str]]:
        """Patients of the training, validation and test set."""
        found: Mapping[str, Any] = self.provenance.get("subsets") or {}
        return {subset: [str(p) for p in found.get(subset) or ()] for subset in ("train", "validation", "test")}

    @property
    def synthetic(self) -> bool:
        """Whether the patients were made by a procedure."""
        return bool(self.provenance.get("synthetic"))

    @property
    def arm_names(self) -> list[str]:
        """Arms in the order of arms.json."""
        return [arm.name for arm in self.arms]

    @property
    def scored_arms(self) -> list[Arm]:
        """Arms that have rows in the score table."""
        present = set(self.scores["arm"])
        return [arm for arm in self.arms if arm.name in present]

    def tolerance(self, structure: str) -> float | None:
        """Tolerance of the NSD in mm, or None where the study does not state one."""
        value = (self.study.get("scoring") or {}).get("nsd-tolerance-mm")
        if isinstance(value, Mapping):
            value = value.get(structure)
        return float(value) if isinstance(value, int | float) else None

    def slices_of(self, case: str) -> int | None:
        """Number of slices of a case's grid, or None where it is not recorded."""
        shape = ((self.provenance.get("grid") or {}).get(case) or {}).get("shape")
        return int(shape[0]) if shape else None


def read_run(folder: Path) -> Run:
    """Read and check a run folder; StoreError names the file that is missing or damaged, and what to do."""
    if not folder.is_dir():
        raise StoreError("there is no such run folder", file=folder, remedy="name a folder that `bench run` has made")
    records = _read(folder / "arms.json", _json_list)
    try:
        arms = tuple(Arm.from_record(record) for record in records)
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError("a record of an arm cannot be read", file=folder / "arms.json", remedy=_UNFINISHED) from error
    return Run(
        study=_read(folder / "study.yaml", _yaml_mapping),
        provenance=_read(folder / "provenance.json", _json_mapping),
        arms=arms,
        failures=tuple(_read(folder / "failures.json", _json_list)),
        scores=_scores(folder / "scores.parquet"),
        timing=_per_arm(folder, arms, "timing.parquet", pd.read_parquet, TIMING_COLUMNS),
        epochs=_per_arm(folder, arms, "fit/epochs.csv", pd.read_csv, EPOCH_COLUMNS),
        prompts=_optional(folder / "prompts.parquet", pd.read_parquet, ("case", "slice", "structure")),
        origins={arm.name: (folder, arm.name) for arm in arms},
    )


def _scores(path: Path) -> pd.DataFrame:
    table = _frame(path, pd.read_parquet, SCORE_COLUMNS)
    names = ["arm", "method", "fusion", "case", "patient", "structure", "scope", "metric", "status"]
    table[names] = table[names].astype(str)
    table["value"] = pd.to_numeric(table["value"], errors="coerce").astype(float)
    repeated = table.duplicated(["arm", "case", "structure", "scope", "metric"])
    if repeated.any():
        first = table[repeated].iloc[0]
        raise StoreError(
            f"{int(repeated.sum())} rows of the score table are there twice, the first of arm {first['arm']!r}",
            case=str(first["case"]),
            file=path,
            remedy="remove the file and start the same `bench run` again: it scores anew from the predictions",
        )
    return table


def _per_arm(
    folder: Path, arms: tuple[Arm, ...], name: str, read: Callable[[Path], pd.DataFrame], columns: tuple[str, ...]
) -> dict[str, pd.DataFrame]:
    found = {arm.name: _optional(folder / "arms" / arm.name / name, read, columns) for arm in arms}
    return {arm: table for arm, table in found.items() if table is not None and len(table)}


def _optional(path: Path, read: Callable[[Path], pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame | None:
    return _frame(path, read, columns) if path.is_file() else None


def _frame(path: Path, read: Callable[[Path], pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    table: pd.DataFrame = _read(path, read)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise StoreError(
            f"the table lacks the columns {', '.join(missing)}",
            file=path,
            remedy="it was written by another version: start the same `bench run` again with this one",
        )
    return table


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise StoreError("the run folder is not complete: a file is missing", file=path, remedy=_UNFINISHED) from error
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=list(EPOCH_COLUMNS))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StoreError(
            f"a file of the run folder cannot be read ({type(error).__name__})", file=path, remedy=_UNFINISHED
        ) from error


def _json_list(path: Path) -> list[Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, list):
        raise ValueError("a list was expected")
    return value


def _json_mapping(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("a mapping was expected")
    return value


def _yaml_mapping(path: Path) -> dict[str, Any]:
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("a mapping was expected")
    return value
