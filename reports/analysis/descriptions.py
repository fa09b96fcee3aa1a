"""Each arm by itself: who was scored, scores with their intervals, performance profiles, run-to-run spread."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pandas as pd

from gtvbench.bench.core.scores import MEASURES, WHOLE_VOLUME
from gtvbench.reports.analysis.contrasts import SEED, by_patient, statistics_of
from gtvbench.reports.analysis.scores import of_scope
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.statistics.agreement import variance_components
from gtvbench.reports.statistics.intervals import bca_of_means, of_median
from gtvbench.reports.statistics.profiles import performance_profile

#: Thresholds of a performance profile, and how far a distance is followed: no planning margin is that wide.
POINTS, FARTHEST_MM = 101, 100.0


def flow(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """From the split to the scores, a row for each structure.

    Columns: test_patients (of the split), patients and cases (in the table of scores), present_patients and
    present_cases (whose reference has the structure), complete_patients (with the structure, and a DSC from every
    arm).
    """
    volume = of_scope(wide, WHOLE_VOLUME)
    rows = []
    for structure in run.structures:
        part = volume[volume["structure"] == structure]
        present = part[part["present"]]
        rows.append(
            {
                "structure": structure,
                "test_patients": len(run.subsets["test"]),
                "patients": part["patient"].nunique(),
                "cases": part["case"].nunique(),
                "present_patients": present["patient"].nunique(),
                "present_cases": present["case"].nunique(),
                "complete_patients": len(by_patient(wide, structure, "dsc").dropna()),
            }
        )
    return pd.DataFrame(rows)


SUMMARY_COLUMNS = (
    "structure", "metric", "arm", "n", "failed", "unscored", "mean", "mean_low", "mean_high", "mean_interval", "sd",
    "median", "median_low", "median_high", "median_interval", "q1", "q3", "p5", "p95", "minimum", "maximum",
)  # fmt: skip


def summary(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Scores of each arm over patients who have the structure, with 95 % intervals: a row a structure, metric and arm.

    The interval of the mean is BCa over patients, that of the median by order statistics; where one does not exist its
    ends are NaN and `..._interval` says why. `failed` counts patients with a failed case, whose penalty is in every
    number; `unscored` patients without a finite score, who are in none (so n + unscored = patients with the
    structure).
    """
    resamples = statistics_of(run).resamples
    volume = of_scope(wide, WHOLE_VOLUME)
    failed = volume[volume["failed"]].groupby(["structure", "arm"])["patient"].nunique()
    rows = []
    for structure, metric in itertools.product(run.structures, MEASURES):
        table = by_patient(wide, structure, metric)
        if table.empty:
            continue
        intervals = bca_of_means(table.to_numpy(float), SEED, resamples=resamples)
        for arm, interval in zip(table.columns, intervals, strict=True):
            values = table[arm].dropna().to_numpy(float)
            middle = of_median(values)
            rows.append(
                {
                    "structure": structure, "metric": metric, "arm": str(arm), "n": len(values),
                    "failed": int(failed.get((structure, arm), 0)), "unscored": len(table) - len(values),
                    **_moments(values), "mean_low": interval.low, "mean_high": interval.high,
                    "mean_interval": interval.method, "median_low": _finite(middle.low),
                    "median_high": _finite(middle.high), "median_interval": middle.method,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def _moments(values: npt.NDArray[np.float64]) -> dict[str, float]:
    names = ("mean", "sd", "median", "q1", "q3", "p5", "p95", "minimum", "maximum")
    if len(values) == 0:
        return dict.fromkeys(names, float("nan"))
    sd = values.std(ddof=1) if len(values) > 1 else float("nan")
    places = np.quantile(values, [0.5, 0.25, 0.75, 0.05, 0.95, 0, 1])
    return {name: float(v) for name, v in zip(names, (values.mean(), sd, *places), strict=True)}


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("nan")


PROFILE_COLUMNS = ("structure", "metric", "arm", "n", "threshold", "share", "low", "high")


def profiles(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Share of patients at least as good as a threshold, with a pointwise 95 % band, for each primary metric and arm.

    Thresholds are 0 to 1 (DSC, NSD), or 0 to the 95th percentile of the arms' distances (at most FARTHEST_MM), POINTS
    of them. A patient without a finite score counts for no threshold and is left out.
    """
    parts = []
    for structure, metric in itertools.product(run.structures, statistics_of(run).primary_metrics):
        table = by_patient(wide, structure, metric)
        higher = MEASURES[metric].higher_is_better
        thresholds = np.linspace(0, 1 if higher else _farthest(table), POINTS).round(4)
        for arm in table.columns:
            values = table[arm].dropna()
            share, low, high = performance_profile(values, thresholds, higher_is_better=higher)
            columns = {"threshold": thresholds, "share": share, "low": low, "high": high}
            keys = {"structure": structure, "metric": metric, "arm": str(arm), "n": len(values)}
            parts.append(pd.DataFrame({**keys, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(PROFILE_COLUMNS))


def _farthest(table: pd.DataFrame) -> float:
    values = table.to_numpy(float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return FARTHEST_MM
    return min(FARTHEST_MM, max(1.0, float(np.ceil(np.quantile(values, 0.95)))))


REPEAT_COLUMNS = (
    "structure", "metric", "method", "fusion", "patients", "left_out", "arms", "seeds", "means", "mean",
    "sd_of_means", "sd_patients", "sd_seeds", "sd_within",
)  # fmt: skip


def repetitions(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """Run-to-run spread: a row for each method and fusion with at least two seeds, structure and primary metric.

    Over the patients whom every seed has a score for. `means`: the mean of each seed; `sd_of_means` their SD, which
    holds both what a seed shifts in all patients and the noise within patients, divided by the patients;
    `sd_patients`, `sd_seeds`, `sd_within` are the components of variance (statistics/agreement.py).
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for arm in run.scored_arms:
        if arm.seed is not None:
            groups.setdefault((arm.method, arm.fusion), {})[arm.name] = arm.seed
    rows = []
    for structure, metric in itertools.product(run.structures, statistics_of(run).primary_metrics):
        every = by_patient(wide, structure, metric)
        for (method, fusion), seeds in groups.items():
            arms = [name for name in seeds if name in every.columns and every[name].notna().any()]
            table = every[arms].dropna()
            if len({seeds[name] for name in arms}) < 2 or table.empty:
                continue
            means = table.mean()
            parts = variance_components(table.to_numpy(float))
            names = ("patients", "repetitions", "within")
            spread = dict.fromkeys(names, float("nan")) if parts is None else asdict(parts)
            rows.append(
                {
                    "structure": structure, "metric": metric, "method": method, "fusion": fusion,
                    "patients": len(table), "left_out": len(every) - len(table), "arms": arms,
                    "seeds": [seeds[name] for name in arms], "means": means.tolist(), "mean": float(means.mean()),
                    "sd_of_means": float(means.std(ddof=1)), "sd_patients": spread["patients"],
                    "sd_seeds": spread["repetitions"], "sd_within": spread["within"],
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(REPEAT_COLUMNS))
