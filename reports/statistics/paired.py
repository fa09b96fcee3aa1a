"""Two arms on the same patients: tests and effect sizes of the paired differences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Values = npt.NDArray[np.float64]

#: Differences are rounded to this many digits first: floating-point noise must neither make nor break ties.
DIGITS = 9

#: Up to so many differences p values are exact: the signed ranks by convolution, the sign flips by enumeration.
EXACT_RANKS, EXACT_FLIPS = 60, 18

_FLIPS, _CHUNK = 100_000, 5_000


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test: sums of the positive and negative ranks, two-sided p, differences that counted."""

    positive: float
    negative: float
    p: float
    n: int

    @property
    def statistic(self) -> float:
        """The smaller of the two sums, as most tables have it."""
        return min(self.positive, self.negative)

    @property
    def rank_biserial(self) -> float:
        """Matched rank-biserial correlation (W+ - W-) / (W+ + W-) (Kerby 2014); 0 where nothing differs."""
        total = self.positive + self.negative
        return (self.positive - self.negative) / total if total else 0.0


def differences_of(one: npt.ArrayLike, other: npt.ArrayLike) -> Values:
    """`one` - `other`, rounded to 1e-9; raises ValueError where a value is not finite: statuses decide first."""
    found: Values = np.round(np.asarray(one, float) - np.asarray(other, float), DIGITS)
    if not np.isfinite(found).all():
        raise ValueError("paired scores must be finite: replace or leave out failed cases first")
    return found


def signed_rank(differences: npt.ArrayLike) -> SignedRank:
    """Wilcoxon signed-rank test, two-sided, zeros left out before ranking (Wilcoxon 1945), ties given mean ranks.

    The p value is exact given the ties (all 2^n signs are equally likely) up to EXACT_RANKS differences; beyond that
    it is the normal approximation with tie correction.
    """
    values = np.round(np.asarray(differences, float), DIGITS)
    values = values[values != 0]
    n = len(values)
    if n == 0:
        return SignedRank(0.0, 0.0, 1.0, 0)
    ranks = stats.rankdata(abs(values))
    positive = float(ranks[values > 0].sum())
    negative = float(ranks[values < 0].sum())
    if n > EXACT_RANKS:
        p = float(stats.wilcoxon(values, zero_method="wilcox", method="approx").pvalue)
    else:
        weights = _null_of_signed_ranks(ranks)
        doubled = round(2 * min(positive, negative))
        p = min(1.0, 2 * float(weights[: doubled + 1].sum()))
    return SignedRank(positive, negative, p, n)


def _null_of_signed_ranks(ranks: Values) -> Values:
    """Probabilities of 2 W+ = 0, 1, 2 ... when every rank is positive with probability one half."""
    doubled = np.round(2 * ranks).astype(int)
    weights = np.zeros(int(doubled.sum()) + 1)
    weights[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(weights)
        shifted[rank:] = weights[: len(weights) - rank]
        weights = (weights + shifted) / 2
    return weights


@lru_cache(maxsize=16)
def _untied_tail(n: int) -> Values:
    """P(W+ <= 0, 1, 2 ...) for n untied differences; there 2 W+ is always even."""
    tail: Values = np.cumsum(_null_of_signed_ranks(np.arange(1.0, n + 1))[::2])
    return tail


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a signed-rank test of n differences can give."""
    return float(2.0 ** (1 - n)) if n > 0 else 1.0


def sign_flip_p(differences: npt.ArrayLike, seed: int = 0) -> float:
    """Two-sided sign-flip permutation test of the mean difference (Fisher 1935): `sign_flip_ps` of one column."""
    return float(sign_flip_ps(np.asarray(differences, float)[:, None], seed)[0])


def sign_flip_ps(differences: npt.ArrayLike, seed: int = 0) -> Values:
    """Two-sided sign-flip p values of the mean of each column of (patients, columns).

    Exact up to EXACT_FLIPS differences that are not 0; beyond that 100,000 random flips, the same patients flipped in
    every column, and (b + 1) / (m + 1).
    """
    values = np.round(np.asarray(differences, float), DIGITS)
    counts = (values != 0).sum(0)
    p = np.ones(values.shape[1])
    for k in np.flatnonzero((counts > 0) & (counts <= EXACT_FLIPS)):
        p[k] = _exact_flips(values[values[:, k] != 0, k])
    many = counts > EXACT_FLIPS
    if not many.any():
        return p
    columns = values[:, many]
    observed = abs(columns.sum(0)) - 10.0**-DIGITS
    rng = np.random.default_rng(seed)
    hits = np.zeros(columns.shape[1])
    for _ in range(0, _FLIPS, _CHUNK):
        signs = 2.0 * rng.integers(0, 2, size=(_CHUNK, len(columns)), dtype=np.int8) - 1.0
        hits += (abs(signs @ columns) >= observed).sum(0)
    p[many] = (hits + 1) / (_FLIPS + 1)
    return p


def _exact_flips(values: Values) -> float:
    """Share of all sign patterns whose sum is as far from 0; the sums are built one value at a time."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(abs(sums) >= abs(values.sum()) - 10.0**-DIGITS))


@dataclass(frozen=True)
class HodgesLehmann:
    """Median of the Walsh averages, its exact interval, and the confidence that the interval really has."""

    estimate: float
    low: float
    high: float
    confidence: float


def hodges_lehmann(differences: npt.ArrayLike, confidence: float = 0.95) -> HodgesLehmann:
    """Hodges-Lehmann estimate of the difference with the exact signed-rank interval (Hollander & Wolfe, section 3.2).

    Where no interval of the confidence exists (fewer than six differences at 95 %), it is (-inf, inf). `differences` of
    length 0 give NaN.
    """
    values = np.round(np.asarray(differences, float), DIGITS)
    n = len(values)
    if n == 0:
        return HodgesLehmann(float("nan"), float("-inf"), float("inf"), 1.0)
    i, j = np.triu_indices(n)
    walsh = np.sort((values[i] + values[j]) / 2)
    tail = _untied_tail(n)
    below = int(
        np.searchsorted(tail, (1 - confidence) / 2, side="right")
    )  # largest count with P(W+ < count) <= alpha/2
    estimate = float(np.median(walsh))
    if below == 0:
        return HodgesLehmann(estimate, float("-inf"), float("inf"), 1.0)
    return HodgesLehmann(
        estimate, float(walsh[below - 1]), float(walsh[len(walsh) - below]), 1 - 2 * float(tail[below - 1])
    )


def probability_of_superiority(differences: npt.ArrayLike) -> float:
    """Paired P(A > B) + P(A = B) / 2 (Grissom & Kim): the share of patients on whom A is better, ties halved."""
    values = np.round(np.asarray(differences, float), DIGITS)
    return float((values > 0).mean() + (values == 0).mean() / 2) if len(values) else float("nan")


def paired_t(differences: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """t, two-sided p and confidence interval of the mean difference (Student 1908)."""
    values = np.asarray(differences, float)
    result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(confidence)
    return float(result.statistic), float(result.pvalue), float(interval.low), float(interval.high)


def equivalence_p(differences: npt.ArrayLike, margin: float) -> float:
    """p of two one-sided t tests against -margin and +margin (Schuirmann 1987); small: they are equivalent."""
    values = np.asarray(differences, float)
    return max(non_inferiority_p(values, margin), non_inferiority_p(-values, margin))


def non_inferiority_p(differences: npt.ArrayLike, margin: float) -> float:
    """p of the one-sided t test against -margin; small: the first arm is not worse by as much as the margin.

    1 below two differences; differences without any spread decide by themselves.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if values[0] > -margin else 1.0
    n = len(values)
    return float(special.stdtr(n - 1, -(values.mean() + margin) / (values.std(ddof=1) / np.sqrt(n))))


def holm(p_values: npt.ArrayLike) -> Values:
    """Holm's adjusted p values (Holm 1979) along the last axis, in the order given."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, axis=-1, kind="stable")
    factors = p.shape[-1] - np.arange(p.shape[-1])
    steps = np.maximum.accumulate(factors * np.take_along_axis(p, order, -1), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), -1)
    return adjusted
