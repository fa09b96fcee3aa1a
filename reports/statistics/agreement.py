"""Agreement of volumes: Bland-Altman and intraclass correlation."""

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
    rows, columns, grand = x.mean(1), x.mean(0), x.mean()
    between = k * ((rows - grand) ** 2).sum() / (n - 1)
    raters = n * ((columns - grand) ** 2).sum() / (k - 1)
    within = ((x - rows[:, None]) ** 2).sum() / (n * (k - 1))
    error = ((x - rows[:, None] - columns[None] + grand) ** 2).sum() / ((n - 1) * (k - 1))

    def ratio(numerator: float, denominator: float) -> float:
        return float(numerator / denominator) if denominator > 0 else float("nan")

    return (
        ratio(between - within, between + (k - 1) * within),
        ratio(between - error, between + (k - 1) * error + k * (raters - error) / n),
        ratio(between - error, between + (k - 1) * error),
    )
