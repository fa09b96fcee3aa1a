"""Confidence intervals by resampling patients: every column of a table at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Values = npt.NDArray[np.float64]

RESAMPLES = 10_000
_CHUNK = 1_000

#: BCa reads its bias from the share of resamples below the estimate. Where more than this share equals the estimate
#: (beyond what untied data give), the bias hangs on how ties are counted: the percentile interval is used instead.
MAX_TIES = 0.1


@dataclass(frozen=True)
class Interval:
    """A confidence interval and how it was made: 'BCa', 'percentile (tied data)', 'constant', 'order statistics' or why
    there is none.
    """

    low: float
    high: float
    method: str


def over_draws(of: Callable[[Values], Values], n: int, seed: int, resamples: int = RESAMPLES) -> Values:
    """What `of` gives for each resample of `n` patients, one below the other.

    `of` gets chunks (up to 1000, n) of multinomial counts: how often each patient is drawn, a row a resample. Few
    patients give the same resample many times: it is computed once.
    """
    distinct, place = _draws(n, seed, resamples)
    chunks = (distinct[start : start + _CHUNK].astype(float) for start in range(0, len(distinct), _CHUNK))
    return np.concatenate([of(counts) for counts in chunks])[place]


@lru_cache(maxsize=4)
def _draws(n: int, seed: int, resamples: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp]]:
    """The distinct resamples, and which of them each resample is."""
    # Every table of the same patients is resampled alike: drawing again would take a quarter of the whole analysis.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.int32)
    distinct, place = np.unique(counts, axis=0, return_inverse=True)
    distinct.setflags(write=False)
    return distinct, place.ravel()  # NumPy 2.0 gives it as a column


def bca_of_means(
    values: npt.ArrayLike, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> list[Interval]:
    """BCa intervals of the column means (Efron 1987, J Am Stat Assoc 82:171) of a table (patients, columns).

    A value that is not finite leaves its patient out of its column. A constant column has the interval of its value.
    Below three patients there is none (NaN). Where ties leave BCa undefined or hanging on a convention (MAX_TIES) it
    is the percentile interval of the same resamples.
    """
    (found,) = bca_levels(values, seed, (confidence,), resamples)
    return found


def bca_levels(
    values: npt.ArrayLike, seed: int, confidences: Sequence[float], resamples: int = RESAMPLES
) -> list[list[Interval]]:
    """`bca_of_means` at several confidences from the same resamples: a list of intervals for each confidence."""
    table = np.asarray(values, float)
    table = table[:, None] if table.ndim == 1 else table
    scored = np.isfinite(table)
    none = Interval(float("nan"), float("nan"), "none below three patients")
    found = [[none] * table.shape[1] for _ in confidences]
    for rows in np.unique(scored, axis=1).T:
        columns = np.flatnonzero((scored == rows[:, None]).all(0))
        if rows.sum() < 3:
            continue
        alike = _without_gaps(table[np.ix_(rows, columns)], seed, confidences, resamples)
        for level, intervals in enumerate(alike):
            for column, interval in zip(columns, intervals, strict=True):
                found[level][column] = interval
    return found


def _without_gaps(table: Values, seed: int, confidences: Sequence[float], resamples: int) -> list[list[Interval]]:
    n = len(table)
    means = table.mean(0)
    drawn = np.sort(over_draws(lambda counts: counts @ table / n, n, seed, resamples), axis=0)
    left_out = (table.sum(0) - table) / (n - 1)
    deviation = left_out.mean(0) - left_out
    spread = (deviation**2).sum(0)
    found: list[list[Interval]] = [[] for _ in confidences]
    for k, mean in enumerate(means):
        constant = np.ptp(table[:, k]) <= 1e-12 * max(1.0, abs(mean))
        acceleration = 0.0 if constant else float((deviation[:, k] ** 3).sum() / (6 * spread[k] ** 1.5))
        for intervals, confidence in zip(found, confidences, strict=True):
            same = Interval(float(mean), float(mean), "constant")
            intervals.append(same if constant else _bca(drawn[:, k], float(mean), acceleration, confidence, n))
    return found


def _bca(drawn: Values, estimate: float, acceleration: float, confidence: float, n: int) -> Interval:
    """Interval from sorted resampled means."""
    noise = 1e-10 * max(1.0, abs(estimate))
    below, up_to = np.searchsorted(drawn, [estimate - noise, estimate + noise]) / len(drawn)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    # Each patient drawn once gives the estimate in untied data too: n! / n^n of the resamples.
    tied = up_to - below - math.exp(math.lgamma(n + 1) - n * math.log(n)) > MAX_TIES
    bias = special.ndtri((below + up_to) / 2)  # half of the ties
    z = bias + special.ndtri(tails)
    stretch = 1 - acceleration * z
    if tied or not np.isfinite(bias) or (stretch <= 0).any():
        return Interval(*_quantiles(drawn, tails), "percentile (tied data)")
    return Interval(*_quantiles(drawn, special.ndtr(bias + z / stretch)), "BCa")


def _quantiles(ordered: Values, shares: Values) -> tuple[float, float]:
    """Two quantiles of sorted values, linear between neighbours as numpy.quantile has them."""
    low, high = np.interp(shares * (len(ordered) - 1), np.arange(len(ordered)), ordered)
    return float(low), float(high)


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
