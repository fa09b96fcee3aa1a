"""The vocabulary of scores: what a row of the long score table may say, and each metric in one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OK, PRED_EMPTY = "ok", "pred_empty"
MISSING_OUTPUT, CRASHED, TIMEOUT, GEOMETRY_MISMATCH = "missing_output", "crashed", "timeout", "geometry_mismatch"
REF_EMPTY_FP, BOTH_EMPTY = "ref_empty_fp", "both_empty"

#: No mask exists that could be measured.
UNUSABLE = (MISSING_OUTPUT, CRASHED, TIMEOUT, GEOMETRY_MISMATCH)
#: Failed where the reference has the structure: scored with the penalty.
FAILED = (PRED_EMPTY, *UNUSABLE)
#: The reference does not have the structure.
REFERENCE_ABSENT = (REF_EMPTY_FP, BOTH_EMPTY)
STATUSES = (OK, *FAILED, *REFERENCE_ABSENT)

#: Scopes: every slice of the volume (primary), or the slices of the reference that had a prompt (secondary).
WHOLE_VOLUME, PROMPTED_SLICES = "volume", "prompted-slices"


@dataclass(frozen=True)
class Metric:
    """A number of the score table: how it is named, and what a failed case is given.

    `name` is its value in the column `metric`, and its attribute of `PairMetrics`. `digits` after the point in the
    report. `failed`, where the reference has the structure and no voxel was predicted: 0, the diagonal of the reference
    grid in mm, minus the reference's volume, or what was measured.
    """

    name: str
    title: str
    unit: str
    digits: int
    failed: Literal["zero", "diagonal", "minus-reference", "measured"]

    @property
    def named(self) -> str:
        """Title with the unit."""
        return f"{self.title} in {self.unit}" if self.unit else self.title


@dataclass(frozen=True)
class Measure(Metric):
    """A metric that says how good a structure's mask is: it may be primary, and is undefined without a reference.

    One without a unit lies between 0 and 1.
    """

    higher_is_better: bool

    @property
    def bounded(self) -> bool:
        """Whether it lies between 0 and 1."""
        return not self.unit

    @property
    def axis(self) -> str:
        """Title of an axis that shows it."""
        return f"{self.named} ({1 if self.higher_is_better else 0} is best)"

    @property
    def short(self) -> str:
        """For ids, file names and requirements."""
        return self.name.split("_")[0]


_MEASURES = (
    Measure("dsc", "DSC", "", 3, "zero", higher_is_better=True),
    Measure("hd95_mm", "HD95", "mm", 1, "diagonal", higher_is_better=False),
    Measure("nsd", "NSD", "", 3, "zero", higher_is_better=True),
    Measure("assd_mm", "ASSD", "mm", 2, "diagonal", higher_is_better=False),
)
_SIZES = (
    Metric("volume_ml", "volume", "mL", 2, "zero"),
    Metric("reference_volume_ml", "reference volume", "mL", 2, "measured"),
    Metric("volume_difference_ml", "volume difference", "mL", 1, "minus-reference"),
    Metric("tp_mm3", "true positives", "mm3", 0, "zero"),
)
MEASURES = {metric.name: metric for metric in _MEASURES}
METRICS: dict[str, Metric] = {**MEASURES, **{metric.name: metric for metric in _SIZES}}
