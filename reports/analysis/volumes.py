"""Volumes: how well predicted volumes agree with the reference, and how scores hang on the reference volume.

Volumes are in mL and a patient's, the mean over their cases; patients are those whose reference has the structure.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from gtvbench.reports.analysis.contrasts import SEED, by_patient, statistics_of
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.statistics.agreement import Agreement, bland_altman, icc_agreement
from gtvbench.reports.statistics.intervals import bca_of_means
from gtvbench.reports.statistics.profiles import smooth, thirds

THIRDS = ("small", "middle", "large")

#: Below so many patients thirds would hold fewer than three.
MIN_THIRDS = 9

#: Points of a smoother, from the smallest to the largest volume, evenly in log volume.
POINTS = 25


def reference_volumes(wide: pd.DataFrame, structure: str) -> pd.Series[float]:
    """Reference volume of each patient who has the structure; NaN where no arm's row records one."""
    table = by_patient(wide, structure, "reference_volume_ml")
    return table.max(axis=1).rename("reference_ml")


POINT_COLUMNS = ("structure", "arm", "patient", "reference_ml", "predicted_ml")


def paired_volumes(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Reference and predicted volume of each patient, structure and arm; a failed case has the predicted volume 0.

    Patients without a recorded reference volume, or a predicted one that is not finite though the case did not fail,
    are left out.
    """
    # The status decides: no usable mask is no volume, whatever the table holds.
    known = wide.assign(volume_ml=wide["volume_ml"].mask(wide["failed"], 0.0))
    parts = []
    for structure in run.structures:
        reference = reference_volumes(wide, structure)
        predicted = by_patient(known, structure, "volume_ml")
        for arm in predicted.columns:
            both = pd.DataFrame({"reference_ml": reference, "predicted_ml": predicted[arm]}).dropna()
            both = both[both["reference_ml"] > 0].rename_axis("patient").reset_index()
            parts.append(both.assign(structure=structure, arm=str(arm)))
    whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(POINT_COLUMNS))
    return whole[list(POINT_COLUMNS)]


_LIMITS = ("", "_low", "_low_from", "_low_to", "_high", "_high_from", "_high_to")
AGREEMENT_COLUMNS = (
    "structure", "arm", "n", *(f"difference{end}_ml" for end in _LIMITS), "difference_sd_ml",
    "n_ratio", "empty", *(f"ratio{end}" for end in _LIMITS), "log_ratio_sd", "icc", "icc_low", "icc_high",
)  # fmt: skip


def agreement(points: pd.DataFrame) -> pd.DataFrame:
    """Bland-Altman and ICC(A,1) of predicted against reference volume: a row a structure and arm of `paired_volumes`.

    In mL: mean difference (predicted - reference), its SD, the 95 % limits `difference_low_ml` and
    `difference_high_ml`, each with its 95 % interval `_from`, `_to`; empty predictions count with volume 0. As ratio
    predicted / reference: the same of the logarithms, then exp: the geometric mean ratio and its limits; a ratio of 0
    has no logarithm, so that `empty` predictions are left out of it. ICC(A,1) has McGraw & Wong's interval.
    """
    rows = []
    for (structure, arm), group in points.groupby(["structure", "arm"], sort=False):
        reference, predicted = group["reference_ml"].to_numpy(float), group["predicted_ml"].to_numpy(float)
        some = predicted > 0
        plain = bland_altman(predicted, reference)
        logs = bland_altman(np.log(predicted[some]), np.log(reference[some]))
        estimate, low, high = icc_agreement(np.stack([reference, predicted], axis=1))
        differences = {f"difference{end}_ml": value for end, value in _limits(plain).items()}
        ratios = {f"ratio{end}": float(np.exp(value)) for end, value in _limits(logs).items()}
        rows.append(
            {
                "structure": structure, "arm": arm, "n": len(group), **differences,
                "difference_sd_ml": float("nan") if plain is None else plain.sd,
                "n_ratio": int(some.sum()), "empty": int((~some).sum()), **ratios,
                "log_ratio_sd": float("nan") if logs is None else logs.sd,
                "icc": estimate, "icc_low": low, "icc_high": high,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def _limits(found: Agreement | None) -> dict[str, float]:
    if found is None:
        return dict.fromkeys(_LIMITS, float("nan"))
    return dict(zip(_LIMITS, (found.mean, found.low, *found.low_ci, found.high, *found.high_ci), strict=True))


SUBGROUP_COLUMNS = ("structure", "metric", "third", "from_ml", "to_ml", "arm", "n", "mean", "low", "high", "interval")


def subgroups(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Mean score with its BCa interval in each third of patients by reference volume.

    `from_ml` to `to_ml` is the range of a third. A row for each structure, primary metric, third and arm; nothing
    below MIN_THIRDS patients. Patients of equal volume stay together, so that a third may be empty.
    """
    options = statistics_of(run)
    rows = []
    for structure, metric in itertools.product(run.structures, options.primary_metrics):
        volumes = reference_volumes(wide, structure).dropna()
        table = by_patient(wide, structure, metric).reindex(volumes.index)
        if len(volumes) < MIN_THIRDS:
            continue
        member, _, _ = thirds(volumes.to_numpy(float))
        for place, third in enumerate(THIRDS):
            part, own = table[member == place], volumes[member == place]
            if part.empty:
                continue
            intervals = bca_of_means(part.to_numpy(float), SEED, resamples=options.resamples)
            for arm, interval in zip(table.columns, intervals, strict=True):
                rows.append(
                    {
                        "structure": structure, "metric": metric, "third": third, "from_ml": float(own.min()),
                        "to_ml": float(own.max()), "arm": str(arm), "n": int(part[arm].notna().sum()),
                        "mean": float(part[arm].mean()), "low": interval.low, "high": interval.high,
                        "interval": interval.method,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SUBGROUP_COLUMNS))


TREND_COLUMNS = ("structure", "metric", "arm", "volume_ml", "score")


def trends(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Lowess of each arm's score against log reference volume.

    A row for each structure, primary metric, arm and one of POINTS volumes. Nothing for an arm with too few patients
    or volumes (statistics/profiles.py).
    """
    parts = []
    for structure, metric in itertools.product(run.structures, statistics_of(run).primary_metrics):
        volumes = reference_volumes(wide, structure)
        volumes = volumes[volumes > 0]
        table = by_patient(wide, structure, metric).reindex(volumes.index)
        for arm in table.columns:
            scored = table[arm].notna().to_numpy()
            x = np.log(volumes.to_numpy(float)[scored])
            at = np.linspace(x.min(), x.max(), POINTS) if len(x) else x
            found = smooth(table[arm].to_numpy(float)[scored], x, at)
            if found is not None:
                columns = {"volume_ml": np.exp(at), "score": found}
                parts.append(pd.DataFrame({"structure": structure, "metric": metric, "arm": str(arm), **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(TREND_COLUMNS))
