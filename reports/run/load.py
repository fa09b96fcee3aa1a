"""The tables and records of a run folder, read once and checked, as everything else in this room uses them.

Only files that the runner writes at the top and under arms/ are read; no volume is needed to render a report. A record
or the score table that cannot be used is an error; a table that adds detail (prompts, timing, epochs) is left out, and
a notice says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.scores import METRICS
from gtvbench.bench.files.store import SCHEMA
from gtvbench.bench.privacy.paths import redact_all
from gtvbench.bench.study.file import StatisticsOptions
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.run import records

#: Columns of the score table without which there is nothing to report, and those that can do without.
SCORE_COLUMNS = ("arm", "case", "structure", "scope", "metric", "value", "status")
LATER_SCORE_COLUMNS = ("method", "fusion", "seed", "patient", "raw")
TIMING_COLUMNS = ("case", "slice", "stage", "boxes", "seconds")
EPOCH_COLUMNS = ("epoch", "train_loss", "validation_loss", "seconds")
PROMPT_COLUMNS = ("case", "slice", "structure")

#: Fields of the records that are texts or options; the others are names and numbers.
_MAY_HOLD_PATHS = {
    "message", "traceback", "reason", "remedy", "options", "notes", "hardware", "dataset", "methods", "split", "output",
}  # fmt: skip


@dataclass(frozen=True)
class Notice:
    """What the reader must know of the tables before any number; the fields are those of a banner."""

    kind: str
    label: str
    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceRun:
    """One of the runs that a merged run was made from; `arms` are those it gave, by their names in the merged run."""

    label: str
    provenance: Mapping[str, Any]
    arms: tuple[str, ...]
    devices: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinishedRun:
    """A run folder in memory; `timing` and `epochs` hold a table for each arm that has one."""

    study: Mapping[str, Any]
    provenance: Mapping[str, Any]
    arms: tuple[ArmRecord, ...]
    failures: tuple[Mapping[str, Any], ...]
    scores: pd.DataFrame
    timing: Mapping[str, pd.DataFrame]
    epochs: Mapping[str, pd.DataFrame]
    prompts: pd.DataFrame | None
    #: Where the files of an arm lie: its name -> (run folder, its name there).
    origins: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    #: What the reader must know of the tables, for the banners.
    notices: tuple[Notice, ...] = ()
    #: The runs that this one was merged from; none where it is one run.
    sources: tuple[SourceRun, ...] = ()

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.study.get("study") or "study")

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures in the order of their values, then any other that has scores."""
        declared: Mapping[str, Any] = self.provenance.get("structures") or self.study.get("structures") or {}
        names = sorted((str(name) for name in declared), key=lambda name: (declared[name], name))
        scored = sorted(set(self.scores["structure"]))
        return tuple(names + [name for name in scored if name not in names])

    @property
    def subsets(self) -> dict[str, list[str]]:
        """Patients in use of the training, validation and test set; `left_out` has the others."""
        return _by_subset(self.provenance.get("subsets"))

    @property
    def folds(self) -> list[dict[str, list[str]]]:
        """As `subsets`, of each fold of a cross-validation; empty for one split."""
        return [_by_subset(fold) for fold in self.provenance.get("folds") or ()]

    @property
    def split_words(self) -> str:
        """How many patients were in which set."""
        counts = {subset: len(patients) for subset, patients in self.subsets.items()}
        if self.folds:
            return f"{counts['test']}, each tested once in a cross-validation with {len(self.folds)} folds"
        return f"{counts['train']} training, {counts['validation']} validation, {counts['test']} test"

    @property
    def in_common(self) -> float:
        """Largest share of a fold's training patients that another fold trains on too; 0 for one split."""
        sets = [set(fold["train"]) for fold in self.folds]
        return max((len(a & b) / len(a) for a in sets for b in sets if a is not b and a), default=0.0)

    @property
    def validated(self) -> bool:
        """Whether any patient was there to choose an epoch by."""
        return any(split["validation"] for split in (self.subsets, *self.folds))

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Cases of each set that could not be prepared and take no part, in any arm."""
        return _by_subset(self.provenance.get("left_out"))

    @property
    def crop_margin_mm(self) -> tuple[float, float] | None:
        """How far beyond the reference the source crops every image (least, most), or None where it does not."""
        dataset = self.study.get("dataset")
        crop = dataset.get("crop") if isinstance(dataset, Mapping) else None
        margin = crop.get("margin-mm") if isinstance(crop, Mapping) else None
        if not isinstance(margin, list | tuple) or len(margin) != 2:
            return None
        return float(margin[0]), float(margin[1])

    @property
    def synthetic(self) -> bool:
        """Whether the patients were made by a procedure."""
        return bool(self.provenance.get("synthetic"))

    @property
    def arm_names(self) -> list[str]:
        """Arms in the order of arms.json."""
        return [arm.name for arm in self.arms]

    def named(self, name: str) -> list[ArmRecord]:
        """The arm of a name, or the repetitions that a name without its seed stands for; none for any other name."""
        exact = [arm for arm in self.arms if arm.name == name]
        return exact or [arm for arm in self.arms if base_name(arm.name) == name]

    @cached_property
    def scored_arms(self) -> list[ArmRecord]:
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


def _by_subset(found: Any) -> dict[str, list[str]]:
    return {subset: [str(n) for n in (found or {}).get(subset) or ()] for subset in ("train", "validation", "test")}


def base_name(arm: str) -> str:
    """Name of an arm without its seed: what its repetitions share."""
    return re.sub(r"\.seed\d+(?=$|@)", "", arm)


def comparable(one: ArmRecord, other: ArmRecord) -> bool:
    """Whether two arms are a pair: repetitions of arms that train pair by their seed, others with every one."""
    return not (one.trains and other.trains) or one.seed == other.seed


def plan_notices(run: FinishedRun) -> list[Notice]:
    """A notice where the study file plans differences between arms that the run does not have."""
    try:
        declared = StatisticsOptions.model_validate(run.study.get("statistics") or {}).contrasts or []
    except ValidationError:
        return []  # the analysis says what is wrong with the block
    lines = [f"{one} against {other}" for one, other in declared if not (run.named(one) and run.named(other))]
    text = "The study file plans these differences, but the run lacks one of the arms: they are not among the planned."
    return [Notice("plan", "Planned differences without their arms", text, tuple(lines))] if lines else []


def read_run(folder: Path) -> FinishedRun:
    """Read and check a run folder; StoreError names the file that is missing or damaged, and what to do."""
    records.require_folder(folder)
    lines = _schema(folder / "run.json")
    arms = _arms(folder / "arms.json")
    scores, remarks = _scores(folder / "scores.parquet", arms)
    lines += remarks
    read = _Optional(folder)
    timing = {arm.name: read.numbers(f"arms/{arm.name}/timing.parquet", TIMING_COLUMNS, _ran(arm)) for arm in arms}
    trained = {arm.name: arm.trains and _ran(arm) for arm in arms}
    folds = {arm.name: arm.folds or 0 for arm in arms}
    epochs = {name: _epochs(read, name, folds[name], due) for name, due in trained.items()}
    prompts = read.table("prompts.parquet", PROMPT_COLUMNS, True)
    lines += read.lines
    text = "Not every table of this run folder could be used as it is; what is shown leaves out what these lines name."
    run = FinishedRun(
        study=_pathless(records.mapping(folder / "study.yaml", records.StudyShape)),
        provenance=_pathless(records.mapping(folder / "provenance.json", records.ProvenanceShape)),
        arms=arms,
        failures=tuple(_pathless(row) for row in records.rows(folder / "failures.json", records.AnyShape)),
        scores=scores,
        timing={arm: table for arm, table in timing.items() if table is not None and len(table)},
        epochs={arm: table for arm, table in epochs.items() if table is not None and len(table)},
        prompts=prompts,
        origins={arm.name: (folder, arm.name) for arm in arms},
        notices=(Notice("damaged", "Tables missing or damaged", text, tuple(lines)),) if lines else (),
    )
    return replace(run, notices=(*run.notices, *plan_notices(run)))


def _epochs(read: _Optional, arm: str, folds: int, due: bool) -> pd.DataFrame | None:
    """Epochs of an arm; with a column `fold` where it was trained in several."""
    if not folds:
        return read.numbers(f"arms/{arm}/fit/epochs.csv", EPOCH_COLUMNS, due)
    parts = {n: read.numbers(f"arms/{arm}/fold{n}/fit/epochs.csv", EPOCH_COLUMNS, due) for n in range(1, folds + 1)}
    # nnU-Net's ensemble counts folds of its own.
    found = [
        part.rename(columns={"fold": "network"}).assign(fold=number)
        for number, part in parts.items()
        if part is not None
    ]
    return pd.concat(found, ignore_index=True) if found else None


def _pathless(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without paths in its texts and options: a run writes none, but older versions did."""
    return {key: redact_all(value) if key in _MAY_HOLD_PATHS else value for key, value in record.items()}


def _ran(arm: ArmRecord) -> bool:
    return arm.status == "complete"


def _schema(path: Path) -> list[str]:
    """Lines on a run.json of another schema; StoreError where it is newer than this version."""
    if not records.present(path):
        return []
    try:
        schema = records.mapping(path, records.AnyShape).get("schema")
    except StoreError:
        return ["run.json cannot be read: the schema of the run folder is not known"]
    if not isinstance(schema, int) or schema < SCHEMA:
        return [f"run.json: the run folder is of an older schema ({schema!r}; this version writes {SCHEMA})"]
    if schema > SCHEMA:
        raise StoreError(
            f"the run folder was written by a newer version of gtvbench (schema {schema}; this version knows {SCHEMA})",
            file=path,
            remedy="update gtvbench, or render the report with the version that made the run",
        )
    return []


def _arms(path: Path) -> tuple[ArmRecord, ...]:
    arms = tuple(ArmRecord.model_validate(_pathless(record)) for record in records.rows(path, ArmRecord))
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StoreError(f"the arm {twice[0]!r} is there twice", file=path, remedy=records.UNFINISHED)
    return arms


def _scores(path: Path, arms: tuple[ArmRecord, ...]) -> tuple[pd.DataFrame, list[str]]:
    """The score table, and lines on what an older version did not write or what does not fit arms.json."""
    table = records.table(path, SCORE_COLUMNS)
    lines = []
    nameless = table[["arm", "case", "structure", "scope", "metric"]].isna().any(axis=1)
    if nameless.any():
        raise StoreError(
            f"{int(nameless.sum())} rows of the score table do not say what they are scores of",
            file=path,
            remedy=_SCORE_AGAIN,
        )
    lacking = [column for column in LATER_SCORE_COLUMNS if column not in table.columns]
    if lacking:
        lines.append(f"scores.parquet lacks the columns {', '.join(lacking)}: it was written by another version")
    table = _completed(table, arms)
    unknown = sorted(set(table["arm"]) - {arm.name for arm in arms})
    if unknown:
        lines.append(f"scores.parquet has arms that arms.json does not know, left out: {', '.join(unknown)}")
        table = table[~table["arm"].isin(unknown)].reset_index(drop=True)
    unmeasured = [metric for metric in METRICS if metric not in set(table["metric"])] if len(table) else []
    if unmeasured:
        lines.append(f"scores.parquet has no {', '.join(unmeasured)}: it was written by another version")
    repeated = table.duplicated(["arm", "case", "structure", "scope", "metric"])
    if repeated.any():
        first = table[repeated].iloc[0]
        raise StoreError(
            f"{int(repeated.sum())} rows of the score table are there twice, the first of arm {first['arm']!r}",
            case=str(first["case"]),
            file=path,
            remedy=_SCORE_AGAIN,
        )
    return table, lines


_SCORE_AGAIN = "remove the file and start the same `bench run` again: it scores anew from the predictions"


def _completed(table: pd.DataFrame, arms: tuple[ArmRecord, ...]) -> pd.DataFrame:
    """Names as text, numbers as numbers (one that is infinite cannot be averaged: NaN), absent columns filled in."""
    names = ["arm", "case", "structure", "scope", "metric", "status"]
    table = table.astype(dict.fromkeys(names, str))
    known = {arm.name: arm for arm in arms}
    for column in ("method", "fusion", "seed"):
        if column not in table:
            table[column] = table["arm"].map({name: getattr(arm, column) for name, arm in known.items()})
    table[["method", "fusion"]] = table[["method", "fusion"]].astype(str)
    patients = table["patient"] if "patient" in table else table["case"]
    table["patient"] = patients.where(patients.notna(), table["case"]).astype(str)
    value = pd.to_numeric(table["value"], errors="coerce").astype(float)
    table["value"] = value.where(np.isfinite(value))
    table["raw"] = pd.to_numeric(table["raw"], errors="coerce").astype(float) if "raw" in table else float("nan")
    return table


class _Optional:
    """Reads tables that add detail; `lines` say which of them could not be used, and why."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lines: list[str] = []

    def table(self, name: str, columns: tuple[str, ...], due: bool) -> pd.DataFrame | None:
        """The table, or None; `due` is whether a run always writes it."""
        path = self._folder / name
        if not records.present(path):
            if due:
                self.lines.append(f"{name} is missing")
            return None
        try:
            return records.table(path, columns)
        except StoreError as error:
            self.lines.append(f"{name}: {error.message}")
            return None

    def numbers(self, name: str, columns: tuple[str, ...], due: bool) -> pd.DataFrame | None:
        """A table whose columns but `case` and `stage` are numbers; rows without a time are left out."""
        table = self.table(name, columns, due)
        if table is None:
            return None
        for column in columns:
            if column in ("case", "stage"):
                table[column] = table[column].fillna("").astype(str)
            else:
                table[column] = pd.to_numeric(table[column], errors="coerce")
        keys = [column for column in ("epoch", "slice", "boxes", "seconds") if column in columns]
        whole = pd.Series(np.isfinite(table[keys].to_numpy(float)).all(axis=1), index=table.index)
        if whole.all():
            return table
        self.lines.append(f"{name}: rows that are not whole are left out ({int((~whole).sum())} of {len(whole)})")
        return table[whole].reset_index(drop=True)
