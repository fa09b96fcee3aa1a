"""Agreement: of volumes (Bland-Altman, intraclass correlation) and of repetitions (variance components)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True)
class Agreement:
    """Mean difference with its SD, 95 % limits of agreement, and the confidence intervals of the two limits."""

    mean: float
    sd: float
    low: float
    high: float
    low_ci: tuple[float, float]
    high_ci: tuple[float, float]


def bland_altman(one: npt.ArrayLike, other: npt.ArrayLike, confidence: float = 0.95) -> Agreement | None:
    """Limits of agreement mean +- 1.96 SD (Bland & Altman, Lancet 1986), with approximate intervals SE = sqrt(3/n) SD.

    None below three pairs.
    """
    d = np.asarray(one, float) - np.asarray(other, float)
    n = len(d)
    if n < 3:
        return None
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * sd * np.sqrt(3 / n))
    low, high = mean - 1.96 * sd, mean + 1.96 * sd
    return Agreement(mean, sd, low, high, (low - half, low + half), (high - half, high + half))


def icc(table: npt.ArrayLike) -> tuple[float, float, float]:
    """ICC(1,1), ICC(A,1) and ICC(C,1) of (targets, raters) (Shrout & Fleiss 1979); NaN if constant."""
    x = np.asarray(table, float)
    n, k = x.shape
    between, raters, error = _mean_squares(x)
    within = ((x - x.mean(1)[:, None]) ** 2).sum() / (n * (k - 1))
    return (
        _ratio(between - within, between + (k - 1) * within),
        _ratio(between - error, between + (k - 1) * error + k * (raters - error) / n),
        _ratio(between - error, between + (k - 1) * error),
    )


def icc_agreement(table: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """ICC(A,1) of (targets, raters) and its confidence interval (McGraw & Wong, Psychol Methods 1:30, 1996, table 7).

    NaN where it does not exist: fewer than three targets, or constant values; raters who agree wholly have (1, 1, 1).
    """
    x = np.asarray(table, float)
    n, k = x.shape
    none = float("nan"), float("nan"), float("nan")
    if n < 3 or np.ptp(x) == 0:
        return none
    estimate = icc(x)[1]
    between, raters, error = _mean_squares(x)
    if 1 - estimate < 1e-12:
        return 1.0, 1.0, 1.0
    if error <= 1e-12 * (between + raters):
        return estimate, float("nan"), float("nan")
    a = k * estimate / (n * (1 - estimate))
    b = 1 + k * estimate * (n - 1) / (n * (1 - estimate))
    df = (a * raters + b * error) ** 2 / ((a * raters) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1)))
    tail = (1 - confidence) / 2
    lower, upper = stats.f.isf(tail, n - 1, df), stats.f.isf(tail, df, n - 1)
    rest = k * raters + (k * n - k - n) * error
    low = n * (between - lower * error) / (lower * rest + n * between)
    high = n * (upper * between - error) / (rest + n * upper * between)
    return estimate, float(low), float(high)


def _mean_squares(x: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean squares of (targets, raters): between targets, between raters, residual."""
    n, k = x.shape
    rows, columns, grand = x.mean(1), x.mean(0), x.mean()
    between = k * ((rows - grand) ** 2).sum() / (n - 1)
    raters = n * ((columns - grand) ** 2).sum() / (k - 1)
    error = ((x - rows[:, None] - columns[None] + grand) ** 2).sum() / ((n - 1) * (k - 1))
    return float(between), float(raters), float(error)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")


@dataclass(frozen=True)
class VarianceComponents:
    """Standard deviations of a score: between patients, between repetitions (of their mean), and within a patient.

    `within` is what is left: how much a repetition differs in one patient beyond its mean shift. A component estimated
    below 0 is 0. `between_means` is the SD (ddof 1) of the repetitions' means, as it is observed.
    """

    patients: float
    repetitions: float
    within: float
    between_means: float


def variance_components(table: npt.ArrayLike) -> VarianceComponents | None:
    """Two-way random decomposition of (patients, repetitions) by mean squares (Searle et al. 1992).

    None below two patients or two repetitions.
    """
    x = np.asarray(table, float)
    n, k = x.shape
    if n < 2 or k < 2:
        return None
    between, repetitions, error = _mean_squares(x)
    return VarianceComponents(
        patients=max(0.0, (between - error) / k) ** 0.5,
        repetitions=max(0.0, (repetitions - error) / n) ** 0.5,
        within=error**0.5,
        between_means=float(x.mean(0).std(ddof=1)),
    )
