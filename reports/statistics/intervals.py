"""Confidence intervals by resampling patients: every column of a table at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 2_000


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made."""

    low: float
    high: float
    method: str


def resampled_means(values: Values, seed: int, resamples: int = RESAMPLES) -> Values:
    """Means of patient resamples, (resamples, columns), of a table (patients, columns) without gaps.

    A patient's row stays together, so that columns remain paired; how often each patient is drawn is multinomial.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _CHUNK):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(_CHUNK, resamples - start))
        parts.append(counts @ values / n)
    return np.concatenate(parts)


def bca_of_means(
    values: npt.ArrayLike, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> list[Interval]:
    """BCa intervals of the column means (Efron 1987, J Am Stat Assoc 82:171) of a table (patients, columns).

    A constant column has the interval of its value. Below three patients there is none (NaN).
    """
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    n, columns = table.shape
    if n < 3:
        return [Interval(float("nan"), float("nan"), "none below three patients")] * columns
    means = table.mean(0)
    drawn = resampled_means(table, seed, resamples)
    left_out = (table.sum(0) - table) / (n - 1)
    deviation = left_out.mean(0) - left_out
    spread = (deviation**2).sum(0)
    found = []
    for k in range(columns):
        if spread[k] < 1e-24:
            found.append(Interval(float(means[k]), float(means[k]), "constant"))
            continue
        acceleration = (deviation[:, k] ** 3).sum() / (6 * spread[k] ** 1.5)
        found.append(_bca(drawn[:, k], float(means[k]), float(acceleration), confidence))
    return found


def _bca(drawn: Values, estimate: float, acceleration: float, confidence: float) -> Interval:
    # Half of the ties: discrete scores give many resamples equal to the estimate.
    share = (drawn < estimate).mean() + (drawn == estimate).mean() / 2
    bias = stats.norm.ppf(np.clip(share, 1e-9, 1 - 1e-9))
    ends = []
    for quantile in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + stats.norm.ppf(quantile)
        ends.append(stats.norm.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(drawn, ends)
    return Interval(float(low), float(high), "BCa")


def of_median(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Exact order-statistic interval of the median (Hollander & Wolfe, section 3.6); (-inf, inf) below six values."""
    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    if n == 0:
        return Interval(float("nan"), float("nan"), "none")
    below = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    while below > 0 and 2 * stats.binom.cdf(below - 1, n, 0.5) > 1 - confidence:
        below -= 1
    if below == 0:
        return Interval(float("-inf"), float("inf"), f"none at {confidence:.0%} for n = {n}")
    return Interval(float(ordered[below - 1]), float(ordered[n - below]), "order statistics")
