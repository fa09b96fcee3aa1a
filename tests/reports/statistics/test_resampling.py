"""Rankings, profiles, models and spreads: vectorised resampling against doing it one resample at a time."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from gtvbench.reports.statistics.agreement import variance_components
from gtvbench.reports.statistics.intervals import bca_levels, bca_of_means, over_draws
from gtvbench.reports.statistics.mixed import random_intercept
from gtvbench.reports.statistics.paired import holm, sign_flip_p, sign_flip_ps
from gtvbench.reports.statistics.power import patients_for_equivalence, patients_needed, power_of
from gtvbench.reports.statistics.profiles import performance_profile, smooth, thirds
from gtvbench.reports.statistics.ranking import (
    SCHEMES,
    TAU_EDGES,
    critical_difference,
    kendall_tau_b,
    ranking_of,
    ranks_of,
    stability,
)

Values = npt.NDArray[np.float64]


def scores(seed: int, patients: int = 12, arms: int = 4, digits: int = 2) -> Values:
    """Arms with a common patient effect; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    table = (
        0.7 + 0.1 * rng.normal(size=(patients, 1)) + 0.05 * np.arange(arms) + 0.07 * rng.normal(size=(patients, arms))
    )
    return np.round(table, digits)


def by_hand(drawn: Values, scheme: str) -> Values:
    """Ranks of one resample, as a reader of Wiesenfarth et al. would write it."""
    if scheme == "mean-then-rank":
        return ranks_of(drawn.mean(0))
    if scheme == "median-then-rank":
        return ranks_of(np.median(drawn, axis=0))
    if scheme == "rank-then-mean":
        return ranks_of(ranks_of(drawn).mean(0), higher_is_better=False)
    pairs = [(i, j) for i in range(drawn.shape[1]) for j in range(i + 1, drawn.shape[1])]
    ps, signs = [], []
    for i, j in pairs:
        d = np.round(drawn[:, i] - drawn[:, j], 9)
        d = d[d != 0]
        ranks = stats.rankdata(abs(d))
        signs.append(np.sign((np.sign(d) * ranks).sum()))
        approximate = stats.wilcoxon(d, method="approx").pvalue if len(d) else 1.0
        ps.append(max(approximate, min(1.0, 2.0 ** (1 - len(d)))))
    wins = np.zeros(drawn.shape[1])
    for (i, j), p, sign in zip(pairs, holm(ps), signs, strict=True):
        if p < 0.05 and sign:
            wins[i if sign > 0 else j] += 1
    return ranks_of(wins)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("patients", [9, 20])
def test_resampled_ranks_are_those_of_every_resample_by_itself(scheme: str, patients: int) -> None:
    table, resamples = scores(3, patients), 300
    found = stability(table, scheme, seed=5, resamples=resamples)
    ranks, whole = [], ranking_of(table, scheme)
    for counts in over_draws(lambda counts: counts, patients, 5, resamples):
        ranks.append(by_hand(np.repeat(table, counts.astype(int), axis=0), scheme))
    places = np.array([stats.rankdata(r, method="min") for r in ranks])
    by_rank = np.stack([(places == place).mean(0) for place in range(1, 5)], axis=1)
    np.testing.assert_allclose(found.probability, by_rank)
    taus = [kendall_tau_b(whole, r) for r in ranks]
    assert found.tau == pytest.approx(tuple(np.quantile(taus, [0.05, 0.5, 0.95])))
    assert found.tau_shares.sum() == pytest.approx(1) and len(found.tau_shares) == len(TAU_EDGES) - 1


def test_arms_that_tie_all_take_the_best_of_their_ranks() -> None:
    same = np.tile(scores(1, arms=1), (1, 3))
    found = stability(same, "mean-then-rank", seed=0, resamples=1000)
    np.testing.assert_array_equal(found.probability, [[1, 0, 0]] * 3)
    assert found.ranks.tolist() == [2, 2, 2] and found.tau == (0, 0, 0)


def test_so_few_patients_that_nothing_is_significant_win_nothing() -> None:
    clear = np.tile([0.9, 0.5], (5, 1)) + scores(0, 5, 2) / 100
    assert ranking_of(clear, "test-then-rank").tolist() == [1.5, 1.5]
    assert stability(clear, "test-then-rank", 0, resamples=1000).probability[:, 0].tolist() == [1, 1]
    clear = np.tile([0.9, 0.5], (8, 1)) + scores(0, 8, 2) / 100
    assert ranking_of(clear, "test-then-rank").tolist() == [1, 2]


def test_cliques_hold_neighbours_that_do_not_differ_and_nothing_else() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal([0.5, 0.9, 0.7, 0.7, 0.9], 0.03, size=(30, 5))
    found = critical_difference(table)
    assert {frozenset(clique) for clique in found.cliques} == {frozenset({1, 4}), frozenset({2, 3})}
    turned = critical_difference(-table, higher_is_better=False)
    assert turned.cliques == found.cliques and turned.mean_ranks.tolist() == found.mean_ranks.tolist()
    listed = [found.mean_ranks[arm] for clique in found.cliques for arm in clique]
    assert listed == sorted(listed), "best first"
    np.testing.assert_allclose(found.p, found.p.T)


def test_cliques_may_overlap_but_none_lies_in_another() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(0, 1, size=(60, 1)) + rng.normal(np.linspace(0, 1, 6), 1, size=(60, 6))
    found = critical_difference(table)
    assert len(found.cliques) > 1
    order = [int(arm) for arm in np.argsort(found.mean_ranks)]
    for clique in found.cliques:
        start = order.index(clique[0])
        assert list(clique) == order[start : start + len(clique)]
        assert (found.p[np.ix_(clique, clique)] >= 0.05).all()
        assert not any(set(clique) < set(other) for other in found.cliques)
    apart = {frozenset((a, b)) for a in range(6) for b in range(a) if found.p[a, b] < 0.05}
    joined = {frozenset((a, b)) for clique in found.cliques for a in clique for b in clique if a != b}
    assert not apart & joined


def test_the_band_of_a_profile_is_that_of_resampled_patients() -> None:
    rng = np.random.default_rng(6)
    values, at = rng.beta(6, 2, size=40), np.linspace(0, 1, 21)
    share, low, high = performance_profile(values, at)
    np.testing.assert_allclose(share, [(values >= t).mean() for t in at])
    assert share[0] == 1 and share[-1] == 0
    drawn = values[rng.integers(0, 40, size=(20_000, 40))]
    band = np.quantile([(drawn >= t).mean(1) for t in at], [0.025, 0.975], axis=1)
    assert abs(low - band[0]).max() <= 1 / 40 + 1e-9 and abs(high - band[1]).max() <= 1 / 40 + 1e-9
    assert np.mean(abs(low - band[0]) < 1e-9) > 0.8, "the same, but for a step where a tail is on the edge"
    less, _, _ = performance_profile(values, at, higher_is_better=False)
    np.testing.assert_allclose(less, [(values <= t).mean() for t in at])
    assert np.isnan(performance_profile([], at)[0]).all()
    assert performance_profile([0.1 + 0.2], [0.3])[0].tolist() == [1], "noise moves nobody over a threshold"


def test_gaps_leave_out_a_patient_of_their_own_column_only() -> None:
    table = np.random.default_rng(1).normal(size=(15, 3))
    holed = table.copy()
    holed[[2, 7], 1] = np.nan, np.inf
    holed[2:, 2] = np.nan
    found = bca_of_means(holed, 0, resamples=2000)
    whole = bca_of_means(table, 0, resamples=2000)[0]
    assert (found[0].low, found[0].high) == pytest.approx((whole.low, whole.high), abs=1e-12)
    (alone,) = bca_of_means(np.delete(table[:, 1], [2, 7]), 0, resamples=2000)
    assert (found[1].low, found[1].high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert found[2].method == "none below three patients"
    wide, narrow = bca_levels(table, 0, (0.95, 0.9), 2000)
    assert wide == bca_of_means(table, 0, resamples=2000)
    assert all(w.low < n.low < n.high < w.high for w, n in zip(wide, narrow, strict=True))


def test_where_ties_decide_the_interval_is_a_percentile_and_says_so() -> None:
    tied = np.r_[np.zeros(28), 1.0, 1.0]
    (found,) = bca_of_means(tied, 0)
    assert found.method == "percentile (tied data)" and found.low == 0 < found.high
    (three,) = bca_of_means([0.5, 0.6, 0.9], 0)
    assert three.method == "BCa", "that each patient is drawn once is no tie in the data"
    (quantised,) = bca_of_means(np.random.default_rng(0).integers(0, 6, 40) * 3.0, 0)
    assert quantised.method == "BCa"


def test_sign_flips_of_many_columns_are_those_of_each() -> None:
    rng = np.random.default_rng(9)
    table = rng.normal(0.2, 1, size=(25, 3))
    table[:, 1] = 0
    table[10:, 2] = 0
    together = sign_flip_ps(table)
    assert together.tolist() == [sign_flip_p(column) for column in table.T]
    assert together[1] == 1 and together[2] == sign_flip_p(table[:10, 2]), "zeros flip to themselves"


def test_so_many_patients_have_the_power_and_one_fewer_has_not() -> None:
    for sd, margin in ((0.1, 0.05), (0.03, 0.05), (8.0, 3.0)):
        n = patients_needed(sd, margin)
        assert n is not None and power_of(margin, sd, n) >= 0.8 and (n == 2 or power_of(margin, sd, n - 1) < 0.8)
    assert patients_needed(0.0, 0.05) == 2 and patients_needed(float("nan"), 0.05) is None
    assert patients_needed(100.0, 0.05) == pytest.approx(((1.959964 + 0.841621) * 2000) ** 2, rel=1e-5)
    assert patients_for_equivalence(0.0, 0.05) == 2 and patients_for_equivalence(float("nan"), 0.05) is None


def test_the_patients_for_equivalence_show_it_four_times_in_five() -> None:
    n = patients_for_equivalence(0.1, 0.05)
    assert n is not None
    d = np.random.default_rng(0).normal(0, 0.1, size=(20_000, n))
    half = stats.t.isf(0.05, n - 1) * d.std(1, ddof=1) / np.sqrt(n)
    shown = np.mean((d.mean(1) - half > -0.05) & (d.mean(1) + half < 0.05))
    assert 0.79 < shown < 0.84


def mixed_table(seed: int, patients: int, patient_sd: float) -> tuple[Values, Values, list[int]]:
    """Two arms, two structures, arm effect .1, and patients that differ."""
    rng = np.random.default_rng(seed)
    who, arm, place = (a.ravel() for a in np.indices((patients, 2, 2)))
    y = 0.7 + 0.1 * arm + patient_sd * rng.normal(size=patients)[who] + 0.05 * rng.normal(size=len(who))
    return y, np.stack([np.ones(len(who)), arm, place], axis=1).astype(float), who.tolist()


def test_a_mixed_model_finds_the_effect_and_both_spreads() -> None:
    y, x, who = mixed_table(0, 200, 0.1)
    found = random_intercept(y, x, who, resamples=2000)
    assert found.converged and found.note == ""
    assert found.estimates[1] == pytest.approx(0.1, abs=0.01) and found.p[1] < 1e-6 < found.p[2]
    assert found.group_sd == pytest.approx(0.1, abs=0.015) and found.residual_sd == pytest.approx(0.05, abs=0.005)
    wald = found.estimates[1] + np.array([-1.96, 1.96]) * found.errors[1]
    assert (found.low[1], found.high[1]) == pytest.approx(tuple(wald), abs=0.003), "no heteroscedasticity: they agree"
    chi2, df, p = found.joint_test([1])
    assert df == 1 and chi2 == pytest.approx((found.estimates[1] / found.errors[1]) ** 2)
    assert p == pytest.approx(found.p[1])


def test_patients_who_do_not_differ_are_no_failure_of_the_model() -> None:
    for seed in range(4):
        y, x, who = mixed_table(seed, 30, 0.0)
        found = random_intercept(y, x, who, resamples=1000)
        assert found.converged and np.isfinite(found.errors).all() and found.low[1] < found.estimates[1] < found.high[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y, x, who: (y[:0], x[:0], []), "no scores"),
        (lambda y, x, who: (np.full_like(y, 0.5), x, who), "all scores are equal"),
        (lambda y, x, who: (y * np.nan, x, who), "not finite"),
        (lambda y, x, who: (y, np.c_[x, x[:, 1]], who), "cannot be told apart"),
        (lambda y, x, who: (y, x, [0] * len(y)), "fewer than three patients"),
        (lambda y, x, who: (0.3 + x[:, 1], x, who), "explain every score"),
        (lambda y, x, who: (y[:4], x[:4], [0, 1, 2, 3]), "no more scores than effects"),
    ],
)
def test_a_model_that_cannot_be_fitted_says_why(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    found = random_intercept(*change(*mixed_table(0, 12, 0.1)))
    assert not found.converged and found.note.startswith("did not converge: ") and reason in found.note
    assert np.isnan(found.estimates).all() and np.isnan(found.joint_test([0])[2])


def test_the_spread_between_seeds_is_parted_from_that_between_patients() -> None:
    rng = np.random.default_rng(3)
    tables = rng.normal(0.7, 0.1, (500, 40, 1)) + rng.normal(0, 0.02, (500, 1, 5)) + rng.normal(0, 0.05, (500, 40, 5))
    parts = [variance_components(table) for table in tables]
    squares = np.mean([(p.patients**2, p.repetitions**2, p.within**2) for p in parts if p], axis=0)
    np.testing.assert_allclose(np.sqrt(squares), [0.1, 0.02, 0.05], rtol=0.05)
    same = variance_components(np.tile(rng.normal(size=(9, 1)), (1, 3)))
    assert same is not None and max(same.repetitions, same.within, same.between_means) < 1e-12
    assert variance_components(np.ones((1, 3))) is None and variance_components(np.ones((3, 1))) is None


def test_a_smoother_follows_what_is_there_and_needs_enough_of_it() -> None:
    x = np.linspace(0, 3, 40)
    line = smooth(0.5 + 0.1 * x, x, [0, 1.5, 3])
    assert line is not None and line == pytest.approx([0.5, 0.65, 0.8])
    failed = np.where(np.arange(40) % 4 == 0, 0.0, 0.8)
    through = smooth(failed, x, [1.5])
    assert through is not None and 0.5 < through[0] < 0.7, "failed cases pull it down"
    assert smooth(x[:5], x[:5], [1]) is None and smooth(x, np.zeros(40), [0]) is None


def test_thirds_keep_equal_volumes_together() -> None:
    member, first, second = thirds([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert member.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and first < second
    assert set(thirds([5.0] * 9)[0]) == {0}
    assert thirds([1, 1, 1, 1, 1, 1, 7, 8, 9])[0].tolist() == [0] * 6 + [2] * 3
