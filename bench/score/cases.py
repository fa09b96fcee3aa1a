"""One case -> rows: statuses, scopes, penalties, raw and scored values; and many rows -> a summary for each structure.

Policy for empty and missing masks. Reference present, prediction empty or unusable: DSC 0, NSD 0, HD95 and mean surface
distance = the physical diagonal of the reference grid, volume 0. Reference absent: no DSC, HD95, NSD or surface
distance (NaN), but false-positive volume. `raw` keeps what was measured (inf or NaN) beside the scored `value`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.scores import (
    BOTH_EMPTY,
    GEOMETRY_MISMATCH,
    MEASURES,
    METRICS,
    MISSING_OUTPUT,
    OK,
    PRED_EMPTY,
    PROMPTED_SLICES,
    REF_EMPTY_FP,
    STATUSES,
    UNUSABLE,
    WHOLE_VOLUME,
)
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.score import metrics

EMPTY_POLICY = (
    "reference present and prediction empty or unusable: DSC 0, NSD 0, HD95 and ASSD = diagonal of the reference grid; "
    "reference absent: not part of DSC, HD95, NSD and ASSD, false-positive rate and volume instead"
)

Label = npt.NDArray[np.integer[Any]]
_Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def definition(tolerances: Mapping[str, float]) -> dict[str, Any]:
    """How the numbers are defined, to be shown with every table: tool, version, percentile, tolerance, policy."""
    return {
        "tool": metrics.TOOL,
        "version": metrics.TOOL_VERSION,
        "percentile": metrics.PERCENTILE,
        "tolerance_mm": dict(tolerances),
        "empty_policy": EMPTY_POLICY,
    }


def score_case(
    prediction: Label | None,
    reference: Label,
    grid: Grid,
    structures: Iterable[Structure],
    tolerances: Mapping[str, float],
    prompted_slices: Mapping[str, Sequence[int]] | None = None,
    status_if_missing: str | None = None,
) -> list[dict[str, Any]]:
    """Score one case; rows with structure, scope, metric, value, raw and status.

    Label maps are (z, y, x) on `grid`, memory-mapped or not; `tolerances` in mm by the structure's name (default 2).
    `prompted_slices` gives the slices of each structure (by name) that had a prompt, for the scope 'prompted-slices',
    which is left out where None. Without a prediction (None) the status is `status_if_missing`, or 'missing_output'; a
    prediction of another shape than the reference's is a 'geometry_mismatch'. Raises ValueError where
    `status_if_missing` is no status of an unusable prediction, or the reference does not fit its grid.
    """
    if reference.shape != grid.shape:
        raise ValueError(f"reference of shape {reference.shape} on a grid of {grid.shape}")
    unusable = status_if_missing or MISSING_OUTPUT
    if unusable not in UNUSABLE:
        raise ValueError(f"{unusable!r} is not one of {', '.join(UNUSABLE)}")
    if prediction is not None and prediction.shape != reference.shape:
        prediction, unusable = None, GEOMETRY_MISMATCH
    structures = tuple(structures)
    values = [s.value for s in structures]
    reference_boxes = label_boxes(reference, values)
    prediction_boxes = {} if prediction is None else label_boxes(prediction, values)
    rows = []
    for structure in structures:
        value, tolerance = structure.value, tolerances.get(structure.name, metrics.DEFAULT_TOLERANCE_MM)
        box = _joint(reference_boxes.get(value), prediction_boxes.get(value))
        inside = tuple(slice(first, stop) for first, stop in box)
        masks = _Masks(
            np.asarray(reference[inside] == value),
            None if prediction is None else np.asarray(prediction[inside] == value),
            box[0][0],
        )
        whole = _measure(masks, grid, tolerance, unusable)
        rows += _rows(structure.name, WHOLE_VOLUME, whole)
        if prompted_slices is not None:
            restricted = masks.restricted(prompted_slices.get(structure.name, ()))
            part = whole if restricted is masks else _measure(restricted, grid, tolerance, unusable)
            rows += _rows(structure.name, PROMPTED_SLICES, part)
    return rows


def label_boxes(label: Label, values: Iterable[int]) -> dict[int, _Box]:
    """Half-open bounding box ((z0, z1), (y0, y1), (x0, x1)) of each value that a label map (z, y, x) holds.

    The map is read once, slice by slice, so a memory-mapped one is never held whole.
    """
    wanted = tuple(values)
    found: dict[int, _Box] = {}
    for z, plane in enumerate(np.asarray(label)):
        if not plane.any():
            continue
        rows = np.flatnonzero(plane.any(axis=1))
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        for value in wanted:
            mask = plane[top:bottom] == value
            ys = np.flatnonzero(mask.any(axis=1))
            if not len(ys):
                continue
            xs = np.flatnonzero(mask[ys[0] : ys[-1] + 1].any(axis=0))
            here = ((z, z + 1), (top + int(ys[0]), top + int(ys[-1]) + 1), (int(xs[0]), int(xs[-1]) + 1))
            found[value] = _joint(found.get(value), here)
    return found


def aggregate(frame: pd.DataFrame, scope: str = WHOLE_VOLUME) -> dict[str, dict[str, Any]]:
    """Summary of each structure from the long table of one arm or folder (columns as `score_case`'s rows, and case).

    Means, SDs (n - 1) and medians are over the cases whose reference has the structure, penalties included; the
    aggregated DSC, 2 sum TP / sum (V_ref + V_pred) in mm3, is over all cases (evaluation of the HECKTOR and HNTS-MRG
    challenges). Numbers that do not exist are None, so that the result can be written as JSON.
    """
    part = frame[frame["scope"] == scope]
    result: dict[str, dict[str, Any]] = {}
    for structure in part["structure"].unique():
        rows = part[part["structure"] == structure]
        wide = rows.pivot(index="case", columns="metric", values="value").astype(float)
        status = rows.groupby("case")["status"].first().reindex(wide.index)
        present = wide["reference_volume_ml"] > 0
        scored, absent = wide[present], wide[~present]
        counts = status.value_counts()
        volume_mm3 = 1000.0 * (wide["volume_ml"].fillna(0.0) + wide["reference_volume_ml"]).sum()
        result[str(structure)] = {
            "cases": len(wide),
            "present": int(present.sum()),
            "status": {name: int(counts[name]) for name in STATUSES if name in counts},
            "aggregated_dsc": _number(2.0 * wide["tp_mm3"].sum() / volume_mm3) if volume_mm3 > 0 else None,
            **{metric: _spread(scored[metric]) for metric in (*MEASURES, "volume_difference_ml")},
            "reference_absent": _false_positives(absent, status[~present]),
        }
    return result


@dataclass(frozen=True)
class _Masks:
    """Reference and prediction of one structure in one box whose first slice is `first`."""

    reference: metrics.Mask
    prediction: metrics.Mask | None
    first: int

    def restricted(self, slices: Sequence[int]) -> _Masks:
        """Both masks set to zero outside the given slices; the same object where nothing lies there."""
        outside = ~np.isin(np.arange(self.first, self.first + len(self.reference)), np.asarray(slices, dtype=int))
        masks = [self.reference] if self.prediction is None else [self.reference, self.prediction]
        if not any(mask[outside].any() for mask in masks):
            return self
        kept = [mask & ~outside[:, None, None] for mask in masks]
        return _Masks(kept[0], None if self.prediction is None else kept[1], self.first)


@dataclass(frozen=True)
class _Measured:
    """Raw numbers of one structure in one scope, with what the policy needs to score them."""

    status: str
    present: bool
    raw: Mapping[str, float]
    penalty_mm: float


def _measure(masks: _Masks, grid: Grid, tolerance_mm: float, unusable: str) -> _Measured:
    present = bool(masks.reference.any())
    if masks.prediction is None:
        volume_ml = float(np.count_nonzero(masks.reference)) * grid.voxel_volume_mm3 / 1000.0
        raw = dict.fromkeys(METRICS, math.nan) | {"reference_volume_ml": volume_ml}
        return _Measured(unusable, present, raw, grid.diagonal_mm)
    pair = metrics.compare(masks.reference, masks.prediction, grid.spacing, tolerance_mm)
    raw = {name: float(getattr(pair, name)) for name in METRICS}
    if present:
        status = OK if pair.volume_ml > 0 else PRED_EMPTY
    else:
        status = REF_EMPTY_FP if pair.volume_ml > 0 else BOTH_EMPTY
    return _Measured(status, present, raw, grid.diagonal_mm)


def _rows(structure: str, scope: str, measured: _Measured) -> list[dict[str, Any]]:
    return [
        {
            "structure": structure,
            "scope": scope,
            "metric": metric,
            "value": _scored(metric, measured),
            "raw": measured.raw[metric],
            "status": measured.status,
        }
        for metric in METRICS
    ]


def _scored(metric: str, measured: _Measured) -> float:
    if metric in MEASURES and not measured.present:
        return math.nan
    if measured.status == OK or not measured.present:
        return measured.raw[metric]
    return {
        "zero": 0.0,
        "diagonal": measured.penalty_mm,
        "minus-reference": -measured.raw["reference_volume_ml"],
        "measured": measured.raw[metric],
    }[METRICS[metric].failed]


def _joint(one: _Box | None, other: _Box | None) -> _Box:
    """The smallest box around both; a box without voxels where there is neither."""
    if one is None or other is None:
        return one or other or ((0, 0), (0, 0), (0, 0))
    z, y, x = ((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(one, other, strict=True))
    return z, y, x


def _spread(values: pd.Series[float]) -> dict[str, float | None]:
    sizes: dict[str, Callable[[], Any]] = {"mean": values.mean, "sd": values.std, "median": values.median}
    return {name: _number(size()) for name, size in sizes.items()}


def _false_positives(absent: pd.DataFrame, status: pd.Series[str]) -> dict[str, Any]:
    """Cases without the structure: how many had a usable mask, in what share of those it was not empty, its volume."""
    usable = status.isin((REF_EMPTY_FP, BOTH_EMPTY))
    volumes = absent.loc[status == REF_EMPTY_FP, "volume_ml"]
    return {
        "cases": len(absent),
        "usable": int(usable.sum()),
        "false_positives": len(volumes),
        "false_positive_rate": len(volumes) / int(usable.sum()) if usable.any() else None,
        "false_positive_volume_ml": _spread(volumes),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
