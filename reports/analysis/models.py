"""Mixed models of a score: does the difference between arms hang on the structure, or on the size of the target?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gtvbench.reports.analysis.contrasts import SEED, by_patient, statistics_of
from gtvbench.reports.analysis.volumes import reference_volumes
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.statistics.mixed import random_intercept

METHOD, STRUCTURE, VOLUME = "method", "structure", "log V_ref"

#: A column of a design: its term, its arm and structure where it is of one, and its values.
_Column = tuple[str, str | None, str | None, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Effect:
    """One fixed effect: `term`, the arm and structure it is of (None: of none), estimate, Wald error and p, interval.

    `low` and `high` are the 95 % percentile interval over resamples of patients, `wald_low` and `wald_high` the normal
    one.
    """

    term: str
    arm: str | None
    structure: str | None
    estimate: float
    error: float
    p: float
    low: float
    high: float
    wald_low: float
    wald_high: float


@dataclass(frozen=True)
class JointTest:
    """Wald test that every effect of a term is 0."""

    term: str
    chi2: float
    df: int
    p: float


@dataclass(frozen=True)
class Model:
    """A mixed model of one metric; `formula` in words, `structures` it is fitted to, and what came out.

    `left_out` counts scores without a reference volume; log V_ref is centred, so that the intercept is the score of
    `reference_arm` on `reference_structure` at the geometric mean volume. Without convergence numbers are NaN and
    `note` says why.
    """

    metric: str
    by_volume: bool
    formula: str
    structures: tuple[str, ...]
    reference_arm: str
    reference_structure: str
    patients: int
    scores: int
    left_out: int
    patient_sd: float
    residual_sd: float
    converged: bool
    note: str
    effects: tuple[Effect, ...]
    tests: tuple[JointTest, ...]


def models(run: FinishedRun, wide: pd.DataFrame) -> list[Model]:
    """Two kinds for each primary metric.

    Over all structures score ~ method x structure + log V_ref + (1 | patient); for each structure (`by_volume`)
    score ~ method x log V_ref + (1 | patient), whose joint test is that of the interaction with volume.
    """
    options = statistics_of(run)
    arms = [arm.name for arm in run.scored_arms]
    found = []
    for metric in options.primary_metrics:
        table = _long(run, wide, metric)
        present = [s for s in run.structures if (table["structure"] == s).any()]
        scored = [arm for arm in arms if (table["arm"] == arm).any()]
        if not present or not scored:
            continue
        found.append(_fit(table, metric, scored, present, False, options.resamples))
        found += [_fit(table[table["structure"] == s], metric, scored, [s], True, options.resamples) for s in present]
    return found


def _long(run: FinishedRun, wide: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Finite scores: patient, structure, arm, score, volume (NaN where none is recorded)."""
    parts = []
    for structure in run.structures:
        table = by_patient(wide, structure, metric)
        volumes = reference_volumes(wide, structure).reindex(table.index)
        patients, arms = len(table), table.shape[1]
        parts.append(
            pd.DataFrame(
                {
                    "patient": np.repeat(table.index.to_numpy(), arms),
                    "structure": structure,
                    "arm": np.tile(table.columns.to_numpy(), patients),
                    "score": table.to_numpy(float).ravel(),
                    "volume": np.repeat(volumes.where(volumes > 0).to_numpy(float), arms),
                }
            )
        )
    return pd.concat(parts, ignore_index=True).dropna(subset=["score"])


def _fit(
    table: pd.DataFrame, metric: str, arms: Sequence[str], structures: Sequence[str], by_volume: bool, resamples: int
) -> Model:
    used = table.dropna(subset=["volume"])
    columns = _design(used, arms, structures, by_volume)
    design = np.stack([values for *_, values in columns], axis=1) if len(used) else np.empty((0, len(columns)))
    fit = random_intercept(used["score"].to_numpy(float), design, used["patient"].tolist(), SEED, resamples)
    effects = tuple(
        Effect(
            term,
            arm,
            structure,
            *(float(a[k]) for a in (fit.estimates, fit.errors, fit.p, fit.low, fit.high)),
            *(float(fit.estimates[k] + side * 1.959964 * fit.errors[k]) for side in (-1, 1)),
        )
        for k, (term, arm, structure, _) in enumerate(columns)
    )
    terms = dict.fromkeys(effect.term for effect in effects if effect.term != "intercept")
    tests = [
        JointTest(term, *fit.joint_test([k for k, effect in enumerate(effects) if effect.term == term]))
        for term in terms
    ]
    method = f"{METHOD} x {VOLUME}" if by_volume else f"{METHOD} x {STRUCTURE} + {VOLUME}"
    return Model(
        metric, by_volume, f"score ~ {method} + (1 | patient)", tuple(structures), arms[0], structures[0],
        int(used["patient"].nunique()), len(used), len(table) - len(used), fit.group_sd, fit.residual_sd,
        fit.converged, fit.note, effects, tuple(tests),
    )  # fmt: skip


def _design(used: pd.DataFrame, arms: Sequence[str], structures: Sequence[str], by_volume: bool) -> list[_Column]:
    """Columns of the design, the first arm and structure as reference levels."""
    of_arm = {arm: (used["arm"] == arm).to_numpy().astype(float) for arm in arms[1:]}
    of_structure = {name: (used["structure"] == name).to_numpy().astype(float) for name in structures[1:]}
    logs = np.log(used["volume"].to_numpy(float))
    volume = logs - logs.mean() if len(logs) else logs
    columns: list[_Column] = [("intercept", None, None, np.ones(len(used)))]
    columns += [(METHOD, arm, None, values) for arm, values in of_arm.items()]
    columns += [(STRUCTURE, None, name, values) for name, values in of_structure.items()]
    columns += [
        (f"{METHOD} x {STRUCTURE}", arm, name, values * here)
        for arm, values in of_arm.items()
        for name, here in of_structure.items()
    ]
    columns.append((VOLUME, None, None, volume))
    if by_volume:
        columns += [(f"{METHOD} x {VOLUME}", arm, None, values * volume) for arm, values in of_arm.items()]
    return columns
