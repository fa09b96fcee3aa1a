"""Masks from anywhere: two folders, matched by case, scored with the rules of cases.py.

A case is named by its reference file without the suffix (.nii.gz, .nii, .nrrd, .mha, .mhd). Its prediction is the file
of the same name, any of these suffixes (nnU-Net's layout). What is left over on both sides is matched once more without
one affix such as `_pred`, `_seg` or `pred_` (`AFFIXES`), where exactly one file on each side fits.

Everything is a row: a missing prediction, one that cannot be read or holds unknown labels ('crashed'), one on another
grid ('geometry_mismatch'), a prediction without a reference ('extra'); the `reason` column says why. A *reference* that
cannot be used is an error, because leaving its case out would change what is measured.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.core.scores import CRASHED, GEOMETRY_MISMATCH, MEASURES, METRICS, MISSING_OUTPUT, STATUSES
from gtvbench.bench.core.structures import Structure, check_labels, structures_from
from gtvbench.bench.files import nifti
from gtvbench.bench.files.store import write_atomically
from gtvbench.bench.score import cases as scoring
from gtvbench.bench.score import metrics

COLUMNS = ["case", "structure", "scope", "metric", "value", "raw", "status", "reason"]
EXTRA = "extra"
AFFIXES = re.compile(
    r"^(?:pred|prediction|seg|segmentation|mask|label|gt|ref|reference)[-_.]"
    r"|[-_.](?:pred|prediction|seg|segmentation|mask|label|gt|ref|reference)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderScores:
    """The long table (columns COLUMNS) and its summary, which holds nothing that JSON cannot."""

    scores: pd.DataFrame
    summary: dict[str, Any]


def score_folders(
    references: Path,
    predictions: Path,
    structures: Mapping[str, int],
    tolerance_mm: float | Mapping[str, float] = metrics.DEFAULT_TOLERANCE_MM,
    out: Path | None = None,
) -> FolderScores:
    """Score every reference of one folder against its prediction in another.

    `structures` names the label values; `tolerance_mm` is the NSD's, one for all or by structure. Where `out` is given,
    the table is written there as CSV and the summary beside it as summary.json. Raises StudyError on arguments that
    make no sense, DataError on references that cannot be used, StoreError where the results cannot be written.
    """
    known = structures_from(structures)
    tolerances = _tolerances(tolerance_mm, known)
    files, found = _images(references), _images(predictions)
    if not files:
        raise DataError(
            "the folder of references holds no image",
            file=references,
            remedy=f"put one label map a case there, in one of the formats {', '.join(nifti.SUFFIXES)}",
        )
    pairs = match(files, found)
    rows: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = []
    for case, path in files.items():
        prediction = pairs.get(case)
        outcome = _score(case, path, prediction, known, tolerances)
        rows += [{"case": case, **row, "reason": outcome.reason} for row in outcome.rows]
        cases.append(_case_record(case, path, prediction, outcome, known))
    used = set(pairs.values())
    extra = {name: path for name, path in found.items() if path not in used}
    for name, path in extra.items():
        reason = f"{path.name} matches no reference" + _ambiguity(name, found)
        rows.append(dict.fromkeys(COLUMNS) | {"case": name, "status": EXTRA, "reason": reason})
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame[["value", "raw"]] = frame[["value", "raw"]].astype(float)
    summary = _summary(frame, known, tolerances, cases)
    if out is not None:
        write_atomically(out, frame.to_csv(index=False))
        write_atomically(out.with_name("summary.json"), json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return FolderScores(frame, summary)


def match(references: Iterable[str], predictions: Mapping[str, Path]) -> dict[str, Path]:
    """Prediction of each reference that has one: equal names first, then those equal without one affix, if unique."""
    references = list(references)
    pairs = {case: predictions[case] for case in references if case in predictions}
    left = [case for case in references if case not in pairs]
    free = [name for name in predictions if name not in pairs]
    cases, names = Counter(map(_bare, left)), Counter(map(_bare, free))
    by_bare = {_bare(name): predictions[name] for name in free}
    pairs |= {case: by_bare[_bare(case)] for case in left if cases[_bare(case)] == names[_bare(case)] == 1}
    return pairs


def summary_rows(summary: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a table for the terminal: one column a structure, one row a number or status."""
    parts = list(summary["structures"].values())
    rows = [("cases with the structure", *(f"{p['present']} of {p['cases']}" for p in parts))]
    seen = [status for status in STATUSES if any(status in p["status"] for p in parts)]
    rows += [(f"  {status}", *(str(p["status"].get(status, 0)) for p in parts)) for status in seen]
    rows.append(("aggregated DSC", *(_text(p["aggregated_dsc"], 4) for p in parts)))
    for metric in (*MEASURES.values(), METRICS["volume_difference_ml"]):
        label, digits = f"{metric.title} {metric.unit}".strip(), metric.digits + 1
        rows.append((f"{label}, mean ± SD", *(_with_sd(p[metric.name], digits) for p in parts)))
        rows.append((f"{label}, median", *(_text(p[metric.name]["median"], digits) for p in parts)))
    absent = [p["reference_absent"] for p in parts]
    rows.append(("false positives", *(f"{a['false_positives']} of {a['usable']}" for a in absent)))
    volumes = (_text(a["false_positive_volume_ml"]["mean"], 2) for a in absent)
    rows.append(("false-positive volume mL, mean", *volumes))
    return ("", *summary["structures"]), rows


def problem_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line for each missing, unusable or extra prediction: case, status, reason."""
    return [f"{p['case']}: {p['status']}, {p['reason']}" for p in summary["problems"]]


@dataclass(frozen=True)
class _Outcome:
    """Rows of one case, and why its prediction could not be used."""

    rows: list[dict[str, Any]]
    status: str | None = None
    reason: str | None = None


def _score(
    case: str, path: Path, prediction: Path | None, known: tuple[Structure, ...], tolerances: Mapping[str, float]
) -> _Outcome:
    volume = nifti.read_volume(path, case)
    reference = _labels(volume, case, path, known)

    def scored(label: npt.NDArray[np.uint8] | None, status: str | None, reason: str | None) -> _Outcome:
        rows = scoring.score_case(label, reference, volume.grid, known, tolerances, status_if_missing=status)
        return _Outcome(rows, status, reason)

    if prediction is None:
        return scored(None, MISSING_OUTPUT, "no prediction has this name")
    try:
        other = nifti.read_volume(prediction, case)
        differences = other.grid.differences(volume.grid)
        if differences:
            return scored(None, GEOMETRY_MISMATCH, f"not on the reference's grid: {'; '.join(differences)}")
        return scored(_labels(other, case, prediction, known), None, None)
    except DataError as error:
        return scored(None, CRASHED, error.message)


def _labels(volume: Volume, case: str, path: Path, known: tuple[Structure, ...]) -> npt.NDArray[np.uint8]:
    """The label map as uint8; raises DataError on values that are not whole numbers or belong to no structure."""
    array = volume.array
    if np.issubdtype(array.dtype, np.floating):
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise DataError("the label values are not whole numbers", case=case, file=path, remedy="give a label map")
        array = whole.astype(np.int64)
    check_labels(array, known, case, str(path))
    return array.astype(np.uint8, copy=False)


def _images(folder: Path) -> dict[str, Path]:
    """Image files of a folder by their names without suffix, in order; two of one name are an error."""
    if not folder.is_dir():
        raise DataError("the folder does not exist", file=folder, remedy="give a folder of label maps")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in nifti.SUFFIXES if path.name.endswith(s)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name.removesuffix(suffix)
        if name in found:
            raise DataError(
                f"two files are called {name!r}: {found[name].name} and {path.name}",
                case=name,
                file=folder,
                remedy="keep the one that is meant",
            )
        found[name] = path
    return found


def _bare(name: str) -> str:
    return AFFIXES.sub("", name, count=1)


def _ambiguity(name: str, found: Mapping[str, Path]) -> str:
    others = [path.name for other, path in found.items() if other != name and _bare(other) == _bare(name)]
    return f" (nor could it be told from {', '.join(others)})" if others else ""


def _tolerances(given: float | Mapping[str, float], known: tuple[Structure, ...]) -> dict[str, float]:
    by_name = given if isinstance(given, Mapping) else dict.fromkeys((s.name for s in known), given)
    unknown = sorted(set(by_name) - {s.name for s in known})
    if unknown:
        raise StudyError(f"tolerances are given for unknown structures: {', '.join(unknown)}")
    result = {s.name: float(by_name.get(s.name, metrics.DEFAULT_TOLERANCE_MM)) for s in known}
    for name, tolerance in result.items():
        if not 0 <= tolerance < np.inf:
            raise StudyError(f"the tolerance of {name!r} is {tolerance} mm", remedy="give a length of 0 mm or more")
    return result


def _case_record(
    case: str, path: Path, prediction: Path | None, outcome: _Outcome, known: tuple[Structure, ...]
) -> dict[str, Any]:
    """One entry of nnU-Net's `metric_per_case`, with our names and statuses beside its own."""
    by_structure: dict[str, dict[str, Any]] = {}
    for structure in known:
        own = [row for row in outcome.rows if row["structure"] == structure.name]
        values = {row["metric"]: row["value"] if np.isfinite(row["value"]) else None for row in own}
        by_structure[str(structure.value)] = {
            "Dice": values["dsc"],
            "structure": structure.name,
            "status": own[0]["status"],
            **values,
        }
    return {
        "case": case,
        "reference_file": str(path),
        "prediction_file": None if prediction is None else str(prediction),
        "problem": None if outcome.status is None else {"status": outcome.status, "reason": outcome.reason},
        "metrics": by_structure,
    }


def _summary(
    frame: pd.DataFrame, known: tuple[Structure, ...], tolerances: Mapping[str, float], cases: list[dict[str, Any]]
) -> dict[str, Any]:
    parts = scoring.aggregate(frame)
    mean = {
        str(s.value): {"Dice": parts[s.name]["dsc"]["mean"], "structure": s.name}
        | {metric: parts[s.name][metric]["mean"] for metric in MEASURES}
        for s in known
    }
    defined = [entry["Dice"] for entry in mean.values() if entry["Dice"] is not None]
    problems = [{"case": entry["case"], **entry["problem"]} for entry in cases if entry["problem"]]
    extra = frame.loc[frame["status"] == EXTRA, ["case", "status", "reason"]]
    return {
        "gtvbench": version("gtvbench"),
        "definition": scoring.definition(tolerances),
        "labels": {s.name: s.value for s in known},
        "structures": parts,
        "problems": problems + extra.to_dict("records"),
        "foreground_mean": {"Dice": float(np.mean(defined)) if defined else None},
        "mean": mean,
        "metric_per_case": cases,
    }


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_sd(spread: Mapping[str, float | None], digits: int) -> str:
    mean, sd = spread["mean"], spread["sd"]
    return _text(mean, digits) if sd is None else f"{_text(mean, digits)} ± {_text(sd, digits)}"
