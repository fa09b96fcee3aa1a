"""Many arms on the same patients: omnibus test, ranking schemes and their stability, critical-difference cliques."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from gtvbench.reports.statistics.intervals import over_draws
from gtvbench.reports.statistics.paired import holm, signed_rank

Values = npt.NDArray[np.float64]

#: Means and medians are rounded before they are ranked: floating-point noise breaks ties.
DIGITS = 9

LEVEL = 0.05

#: Edges of the histogram of tau-b: twenty bins over [-1, 1].
TAU_EDGES = np.round(np.linspace(-1, 1, 21), 1)


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


# A scheme gives each arm a number that is best when largest, for each row of `counts` (resamples, patients): how often
# a patient counts. `gains` is (patients, arms) with the sign that makes more better.
_Scheme = Callable[[Values, Values], Values]


def _means(gains: Values, counts: Values) -> Values:
    means: Values = counts @ gains / counts.sum(1, keepdims=True)
    return means


def _medians(gains: Values, counts: Values) -> Values:
    n = counts[0].sum()
    lower, upper = np.floor((n + 1) / 2), np.ceil((n + 1) / 2)
    found = np.empty((len(counts), gains.shape[1]))
    for k in range(gains.shape[1]):
        order = np.argsort(gains[:, k], kind="stable")
        ordered, upto = gains[order, k], np.cumsum(counts[:, order], axis=1)
        found[:, k] = (ordered[(upto >= lower).argmax(1)] + ordered[(upto >= upper).argmax(1)]) / 2
    return found


def _mean_ranks(gains: Values, counts: Values) -> Values:
    return -_means(ranks_of(gains), counts)


def _wins(gains: Values, counts: Values) -> Values:
    """Significant wins of each arm in each resample, by the normal approximation with tie correction."""
    pairs = list(itertools.combinations(range(gains.shape[1]), 2))
    tests = [_resampled_signed_rank(gains[:, i] - gains[:, j], counts) for i, j in pairs]
    adjusted = holm(np.stack([p for _, p in tests], axis=1))
    wins = np.zeros((len(counts), gains.shape[1]))
    for (i, j), (excess, _), p in zip(pairs, tests, adjusted.T, strict=True):
        wins[:, i] += (p < LEVEL) & (excess > 0)
        wins[:, j] += (p < LEVEL) & (excess < 0)
    return wins


def _resampled_signed_rank(differences: Values, counts: Values) -> tuple[Values, Values]:
    """W+ - W- and the two-sided normal p of Wilcoxon's test in each resample; a patient drawn m times ties m ways.

    p is never below 2^(1 - n), the smallest that the exact test of n differences can give.
    """
    d = np.round(differences, DIGITS)
    kept = d != 0
    if not kept.any():
        return np.zeros(len(counts)), np.ones(len(counts))
    order = np.flatnonzero(kept)[np.argsort(abs(d[kept]), kind="stable")]
    sizes = abs(d[order])
    starts = np.flatnonzero(np.diff(sizes, prepend=0.0))
    ties = counts[:, order]
    net = ties * np.sign(d[order])  # positive less negative differences of each size
    if len(starts) < len(order):
        ties, net = np.add.reduceat(ties, starts, axis=1), np.add.reduceat(net, starts, axis=1)
    excess = np.einsum("ij,ij->i", np.cumsum(ties, axis=1) - (ties - 1) / 2, net)  # mean ranks of the sizes
    n = ties.sum(1)
    # Var(W+) = (n (n + 1) (2n + 1) - sum(t^3 - t) / 2) / 24 (Hollander & Wolfe, section 3.1); W+ - W- has four times
    # it.
    variance = (n * (n + 1) * (2 * n + 1) - (np.einsum("ij,ij,ij->i", ties, ties, ties) - n) / 2) / 6
    z = np.divide(excess, np.sqrt(variance), out=np.zeros_like(excess), where=variance > 0)
    return excess, np.maximum(2 * special.ndtr(-abs(z)), np.minimum(1.0, 2.0 ** (1 - n)))


#: Wiesenfarth et al., Sci Rep 11:2369, 2021: aggregate, then rank; rank, then aggregate; test, then rank.
_SCHEMES: dict[str, _Scheme] = {
    "mean-then-rank": _means,
    "median-then-rank": _medians,
    "rank-then-mean": _mean_ranks,
    "test-then-rank": _wins,
}
SCHEMES = tuple(_SCHEMES)


def pairwise_p(table: npt.ArrayLike) -> Values:
    """Holm-adjusted p (arms, arms) of Wilcoxon's test over all pairs of arms of (patients, arms); diagonal 1."""
    values = np.asarray(table, float)
    k = values.shape[1]
    found = np.ones((k, k))
    if k < 2:
        return found
    i, j = np.triu_indices(k, 1)
    found[i, j] = found[j, i] = holm([signed_rank(values[:, a] - values[:, b]).p for a, b in zip(i, j, strict=True)])
    return found


def _aggregate(table: Values, scheme: str) -> Values:
    """A scheme's number for each arm on all patients; test-then-rank uses the exact test here."""
    if scheme != "test-then-rank":
        whole: Values = _SCHEMES[scheme](table, np.ones((1, len(table))))[0]
        return whole
    different = pairwise_p(table) < LEVEL
    k = table.shape[1]
    wins = np.zeros(k)
    for i, j in itertools.permutations(range(k), 2):
        wins[i] += different[i, j] and signed_rank(table[:, i] - table[:, j]).rank_biserial > 0
    return wins


def ranking_of(table: npt.ArrayLike, scheme: str, *, higher_is_better: bool = True) -> Values:
    """Ranks (arms,) of (patients, arms) under a scheme of SCHEMES, 1 = best, ties given their mean rank.

    test-then-rank counts the arms that an arm beats by Wilcoxon's test with Holm over all pairs at .05.
    """
    values = np.asarray(table, float)
    return ranks_of(_aggregate(values if higher_is_better else -values, scheme))


@dataclass(frozen=True)
class Stability:
    """How a ranking holds when other patients of the same kind are drawn.

    `probability` (arms, ranks): share of resamples in which an arm has a rank (tied arms all take the best of their
    ranks, so that a row sums to 1 and a column need not); `tau`: Kendall's tau-b between the ranking of all patients
    and those of the resamples, its 5th percentile, median, 95th; `tau_shares`: share of resamples in each bin of
    TAU_EDGES. Where either ranking is all ties tau-b does not exist and counts as 0.
    """

    ranks: Values
    probability: Values
    tau: tuple[float, float, float]
    tau_shares: Values


def stability(
    table: npt.ArrayLike, scheme: str, seed: int, *, higher_is_better: bool = True, resamples: int = 10_000
) -> Stability:
    """Bootstrap over patients of a ranking scheme of SCHEMES (Wiesenfarth et al., Sci Rep 11:2369, 2021).

    `table` is (patients, arms) without gaps. In the resamples, not on all patients, test-then-rank uses the normal
    approximation with tie correction.
    """
    values = np.asarray(table, float)
    gains = values if higher_is_better else -values
    whole = ranks_of(_aggregate(gains, scheme))

    def ranked(counts: Values) -> Values:
        drawn = np.round(_SCHEMES[scheme](gains, counts), DIGITS)
        better = (drawn[:, None, :] > drawn[:, :, None]).sum(2)  # (resamples, arms): how many arms are better
        return np.column_stack([better, _tau_b(-whole, drawn)])

    *better, taus = over_draws(ranked, len(gains), seed, resamples).T
    probability = np.stack([[(arm == place).mean() for place in range(len(better))] for arm in better])
    low, middle, high = (float(q) for q in np.quantile(taus, [0.05, 0.5, 0.95]))
    shares = np.histogram(np.round(taus, DIGITS), TAU_EDGES)[0] / resamples
    return Stability(whole, probability, (low, middle, high), shares)


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


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram shows.

    `mean_ranks` (arms,), 1 = best; `p` (arms, arms) adjusted; `cliques`: groups of at least two arms (indices, best
    mean rank first), each next to each other in mean rank, in which no pair differs at .05, none inside another.
    """

    mean_ranks: Values
    p: Values
    cliques: tuple[tuple[int, ...], ...]


def critical_difference(table: npt.ArrayLike, *, higher_is_better: bool = True) -> CriticalDifference:
    """Mean ranks and cliques of (patients, arms), from Wilcoxon's test with Holm over all pairs.

    Not Nemenyi's (Demsar 2006), whose verdict on two arms depends on the others (Benavoli et al., JMLR 17:5, 2016).
    """
    values = np.asarray(table, float)
    mean_ranks = ranks_of(values, higher_is_better=higher_is_better).mean(0)
    p = pairwise_p(values)
    order = np.lexsort((np.arange(len(mean_ranks)), np.round(mean_ranks, DIGITS)))
    different = p[np.ix_(order, order)] < LEVEL
    cliques: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and not different[start : stop + 1, stop].any():
            stop += 1
        if stop > reached and stop - start > 1:
            cliques.append(tuple(int(arm) for arm in order[start:stop]))
        reached = max(reached, stop)
    return CriticalDifference(mean_ranks, p, tuple(cliques))


def nemenyi_distance(arms: int, patients: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks (Demsar, JMLR 7:1, 2006), to compare with papers that print it.

    q(level, arms, infinite) / sqrt(2) * sqrt(arms (arms + 1) / (6 patients)).
    """
    quantile = float(stats.studentized_range.isf(level, arms, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(arms * (arms + 1) / (6 * patients)))
