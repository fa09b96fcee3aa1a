"""Many arms on the same patients: omnibus test, rankings and their stability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]

#: Means and medians are rounded before they are ranked: floating-point noise breaks ties.
DIGITS = 9


@dataclass(frozen=True)
class Omnibus:
    """Friedman's test: chi-square (corrected for ties), degrees of freedom, p, and Kendall's W."""

    chi2: float
    df: int
    p: float
    kendall_w: float


def friedman(table: npt.ArrayLike) -> Omnibus | None:
    """Friedman's test on (patients, arms), corrected for ties, with Kendall's W = chi2 / (n (k - 1)).

    None where it does not exist: fewer than three arms or two patients, or every patient ties on all arms.
    """
    values = np.round(np.asarray(table, float), DIGITS)
    n, k = values.shape
    if k < 3 or n < 2 or (values == values[:, :1]).all():
        return None
    result = stats.friedmanchisquare(*values.T)
    chi2 = float(result.statistic)
    return Omnibus(chi2, k - 1, float(result.pvalue), chi2 / (n * (k - 1)))


def ranks_of(scores: npt.ArrayLike, *, higher_is_better: bool = True) -> Values:
    """Ranks along the last axis, 1 = best, ties given their mean rank."""
    values = np.round(np.asarray(scores, float), DIGITS)
    ranks: Values = stats.rankdata(-values if higher_is_better else values, axis=-1)
    return ranks


def mean_then_rank(table: Values, *, higher_is_better: bool = True) -> Values:
    """Rank of each arm's mean; `table` is (..., patients, arms)."""
    return ranks_of(table.mean(-2), higher_is_better=higher_is_better)


def median_then_rank(table: Values, *, higher_is_better: bool = True) -> Values:
    """Rank of each arm's median."""
    return ranks_of(np.median(table, -2), higher_is_better=higher_is_better)


def rank_then_mean(table: Values, *, higher_is_better: bool = True) -> Values:
    """Rank of each arm's mean rank over patients."""
    per_patient = ranks_of(table, higher_is_better=higher_is_better)
    return ranks_of(per_patient.mean(-2), higher_is_better=False)


SCHEMES = {
    "mean-then-rank": mean_then_rank,
    "median-then-rank": median_then_rank,
    "rank-then-mean": rank_then_mean,
}


@dataclass(frozen=True)
class Stability:
    """How a ranking holds when other patients of the same kind are drawn.

    `probability` (arms, ranks): share of resamples in which an arm has a rank (ties take the better one); `tau`:
    Kendall's tau-b between the ranking of all patients and those of the resamples: its 5th percentile, median, 95th.
    """

    ranks: Values
    probability: Values
    tau: tuple[float, float, float]


def stability(
    table: npt.ArrayLike, scheme: str, seed: int, *, higher_is_better: bool = True, resamples: int = 1000
) -> Stability:
    """Bootstrap over patients of a ranking scheme of SCHEMES (Wiesenfarth et al., Sci Rep 11:2369, 2021)."""
    values = np.asarray(table, float)
    n, k = values.shape
    rank = SCHEMES[scheme]
    rng = np.random.default_rng(seed)
    whole = rank(values, higher_is_better=higher_is_better)
    drawn = rank(values[rng.integers(0, n, size=(resamples, n))], higher_is_better=higher_is_better)
    places = np.floor(drawn).astype(int) - 1
    probability = np.stack([(places == place).mean(0) for place in range(k)], axis=1)
    taus = _tau_b(whole, drawn)
    low, middle, high = (float(q) for q in np.quantile(taus, [0.05, 0.5, 0.95]))
    return Stability(whole, probability, (low, middle, high))


def _tau_b(one: Values, many: Values) -> Values:
    """Kendall's tau-b of one ranking (k,) with each of many (m, k); 0 where either is all ties."""
    i, j = np.triu_indices(len(one), 1)
    a = np.sign(one[i] - one[j])
    b = np.sign(many[:, i] - many[:, j])
    scale = np.sqrt((a != 0).sum() * (b != 0).sum(1))
    taus: Values = np.divide((a * b).sum(1), scale, out=np.zeros(len(many)), where=scale > 0)
    return taus


def kendall_tau_b(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Kendall's tau-b of two rankings (Kendall 1945)."""
    return float(_tau_b(np.asarray(one, float), np.asarray(other, float)[None])[0])
