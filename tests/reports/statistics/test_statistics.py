"""Statistics against published and re-computed reference values."""

import numpy as np
import pytest
from scipy import stats

from gtvbench.reports.statistics.agreement import bland_altman, icc, icc_agreement
from gtvbench.reports.statistics.intervals import bca_of_means, of_median
from gtvbench.reports.statistics.mixed import random_intercept
from gtvbench.reports.statistics.paired import (
    differences_of,
    equivalence_p,
    hodges_lehmann,
    holm,
    non_inferiority_p,
    paired_t,
    probability_of_superiority,
    sign_flip_p,
    signed_rank,
    smallest_p,
)
from gtvbench.reports.statistics.power import detectable_difference, patients_needed, power_of
from gtvbench.reports.statistics.ranking import (
    SCHEMES,
    friedman,
    kendall_tau_b,
    nemenyi_distance,
    ranking_of,
    ranks_of,
)

MAIZE = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]

DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.0, 1.0, 1.0, 1.0], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.975, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_darwins_maize_has_its_exact_values() -> None:
    found = signed_rank(MAIZE)
    assert found.statistic == 24 and found.p == pytest.approx(0.041259765625, abs=1e-15)
    assert found.rank_biserial == pytest.approx(0.6)
    assert sign_flip_p(MAIZE) == pytest.approx(0.05267334, abs=1e-8)
    shift = hodges_lehmann(MAIZE)
    assert (shift.estimate, shift.low, shift.high) == (25, 4, 41.5)
    assert shift.confidence == pytest.approx(0.9521, abs=5e-5)
    t, p, _, _ = paired_t(MAIZE)
    assert t == pytest.approx(2.147987, abs=1e-6) and p == pytest.approx(0.0497029, abs=1e-7)


def test_the_signed_rank_of_demsars_table_agrees_with_the_printed_one() -> None:
    found = signed_rank(differences_of(DEMSAR[:, 0], DEMSAR[:, 1]))
    assert found.statistic == 6.5 and found.n == 12
    assert found.p == pytest.approx(0.010757, abs=0.004)  # exact given the ties, beside the normal approximation


def test_exact_p_values_are_those_of_scipy_without_ties_and_count_every_sign_with_them() -> None:
    for seed in range(5):
        drawn = np.random.default_rng(seed).normal(0.3, 1, 20)
        assert signed_rank(drawn).p == pytest.approx(stats.wilcoxon(drawn, method="exact").pvalue, abs=1e-12)
    values = np.array([1.0, 1, 2, -2, 3, 3, -1])
    ranks = stats.rankdata(abs(values))
    sums = [sum(r for r, s in zip(ranks, f"{k:07b}", strict=True) if s == "1") for k in range(2**7)]
    observed = min(ranks[values > 0].sum(), ranks[values < 0].sum())
    assert signed_rank(values).p == pytest.approx(min(1, 2 * np.mean(np.array(sums) <= observed)))


def test_large_samples_use_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, 200)
    assert signed_rank(values).p == pytest.approx(stats.wilcoxon(values, method="approx").pvalue)
    assert sign_flip_p(values) == pytest.approx(paired_t(values)[1], abs=0.01)


def test_noise_in_the_last_digit_makes_no_ranks() -> None:
    one, other = [0.5, 0.825, 0.375, 0.5], [0.525, 0.775, 0.325, 0.55]
    found = signed_rank(differences_of(one, other))
    assert (found.positive, found.negative) == (6, 4), "noise in the last digit would make it 5 and 5"
    with pytest.raises(ValueError, match="finite"):  # a failed case is never silently dropped
        differences_of([1.0, float("nan")], [1.0, 2.0])


def test_the_sleep_data_of_r() -> None:
    one = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0, 2.0]
    other = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    d = differences_of(one, other)
    t, p, low, high = paired_t(d)
    assert (t, p) == (pytest.approx(-4.062128, abs=1e-6), pytest.approx(0.00283289, abs=1e-8))
    assert (low, high) == (pytest.approx(-2.459886, abs=1e-6), pytest.approx(-0.700114, abs=1e-6))
    assert equivalence_p(d, 2.5) == pytest.approx(0.0211169, abs=1e-7)
    assert non_inferiority_p(d, 2.5) == pytest.approx(0.0211169, abs=1e-7)
    days = np.concatenate([other, one])
    design = np.stack([np.ones(20), np.repeat([1.0, 0.0], 10)], axis=1)
    fit = random_intercept(days, design, [*range(10), *range(10)])
    assert fit.converged and fit.estimates[1] == pytest.approx(1.58)
    assert fit.errors[1] == pytest.approx(0.3890, abs=5e-5)
    assert fit.low[1] < 1.58 < fit.high[1]
    assert signed_rank(d).p == pytest.approx(0.00390625)  # nine differences, all of one sign


def test_holm_never_gives_a_larger_p_value_a_smaller_adjusted_one() -> None:
    # By hand: .005 x 4, .01 x 3, .03 x 2, and .04 x 1 is raised to the one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_on_the_p_values_of_benjamini_and_hochberg() -> None:
    p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1,
    ]  # fmt: skip
    adjusted = holm(p)
    np.testing.assert_allclose(adjusted[:6], [0.0015, 0.0056, 0.0247, 0.1140, 0.2211, 0.2780], atol=5e-5)
    assert (adjusted < 0.05).sum() == 3 and adjusted.max() == 1
    order = np.random.default_rng(0).permutation(len(p))
    np.testing.assert_array_equal(holm(np.array(p)[order]), adjusted[order])


def test_the_bca_interval_is_that_of_r_boot() -> None:
    x = [10, 12, 12.5, 12.5, 13.9, 15, 21, 22, 23, 34, 50, 81, 89, 121, 134, 213]
    (found,) = bca_of_means(x, seed=3, resamples=200_000)
    assert found.method == "BCa"
    assert found.low == pytest.approx(32.31, rel=0.005) and found.high == pytest.approx(91.43, rel=0.005)


def test_bca_agrees_with_scipy_column_by_column_and_is_repeatable() -> None:
    table = np.random.default_rng(5).beta(5, 2, size=(30, 3))
    ours = bca_of_means(table, seed=1, resamples=50_000)
    assert ours == bca_of_means(table, seed=1, resamples=50_000)
    for column, found in zip(table.T, ours, strict=True):
        theirs = stats.bootstrap((column,), np.mean, n_resamples=50_000, method="BCa", rng=2).confidence_interval
        assert (found.low, found.high) == (pytest.approx(theirs.low, abs=2e-3), pytest.approx(theirs.high, abs=2e-3))


def test_intervals_that_do_not_exist_say_so() -> None:
    (constant,) = bca_of_means([0.5, 0.5, 0.5, 0.5], seed=0)
    assert (constant.low, constant.high, constant.method) == (0.5, 0.5, "constant")
    (few,) = bca_of_means([0.5, 0.7], seed=0)
    assert np.isnan(few.low) and "three" in few.method
    assert of_median([1, 2, 3]).low == -np.inf
    assert hodges_lehmann([1.0, 2, 3]).low == -np.inf and np.isnan(hodges_lehmann([]).estimate)
    assert smallest_p(5) == 0.0625 and smallest_p(6) < 0.05


def test_the_interval_of_a_median_covers_it() -> None:
    rng = np.random.default_rng(8)
    for n in (6, 17, 50):
        inside = [(f := of_median(rng.normal(size=n))).low <= 0 <= f.high for _ in range(2000)]
        assert 0.945 < np.mean(inside) < 0.99
    assert of_median([1, 2, 3, 4, 5, 6]).low == 1 and of_median([1, 2, 3, 4, 5, 6]).high == 6


def test_demsars_table_has_its_friedman_statistic() -> None:
    found = friedman(DEMSAR)
    assert found is not None
    assert found.chi2 == pytest.approx(10.95238, abs=1e-5) and found.p == pytest.approx(0.0119862, abs=1e-7)
    assert found.kendall_w == pytest.approx(10.95238 / (14 * 3), abs=1e-6)
    assert nemenyi_distance(4, 14) == pytest.approx(1.2536, abs=5e-5)
    assert friedman(DEMSAR[:, :2]) is None and friedman(np.ones((5, 4))) is None


def test_rankings_tie_where_noise_alone_differs() -> None:
    assert ranks_of([0.1 + 0.2, 0.3, 0.5]).tolist() == [2.5, 2.5, 1]
    table = np.tile([0.9, 0.5, 0.7], (8, 1))
    for scheme in SCHEMES:
        assert ranking_of(table, scheme).tolist() == [1, 3, 2]
        assert ranking_of(table, scheme, higher_is_better=False).tolist() == [3, 1, 2]


def test_kendalls_tau_is_that_of_the_documentation() -> None:
    assert kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.4714045, abs=1e-7)
    assert kendall_tau_b([1, 1, 1], [1, 2, 3]) == 0


def test_bland_and_altmans_peak_flow_meters() -> None:
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = bland_altman(wright, mini)
    assert found is not None
    assert (found.mean, found.sd) == (pytest.approx(-2.1176, abs=5e-5), pytest.approx(38.7651, abs=5e-5))
    assert (found.low, found.high) == (pytest.approx(-78.097, abs=5e-4), pytest.approx(73.862, abs=5e-4))
    assert found.low_ci[0] < found.low < found.low_ci[1] < found.high_ci[0] < found.high < found.high_ci[1]
    assert bland_altman([1, 2], [1, 3]) is None


def test_the_judges_of_shrout_and_fleiss() -> None:
    judges = np.array([[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]]).T
    assert icc(judges) == pytest.approx((0.1657, 0.2898, 0.7148), abs=5e-5)
    assert all(np.isnan(icc(np.ones((4, 2)))))
    # R's psych::ICC prints the interval of ICC2 as .019 to .761.
    assert icc_agreement(judges) == pytest.approx((0.2898, 0.0188, 0.7611), abs=5e-5)
    assert icc_agreement(np.array([[1.0, 1], [2, 2], [5, 5]])) == (1, 1, 1)
    assert np.isnan(icc_agreement(np.ones((4, 2)))[0]) and np.isnan(icc_agreement(judges[:2])[0])


def test_superiority_counts_ties_half() -> None:
    assert probability_of_superiority([1, 0, -1, 2]) == pytest.approx(0.625)
    assert signed_rank([0, 0, 0]).p == 1 and sign_flip_p([0.0, 0]) == 1


def test_power_is_that_of_published_tables() -> None:
    # Cohen's dz = .5, n = 34: power .80 (G*Power 3.1, paired t test, two-sided .05).
    assert power_of(0.5, 1.0, 34) == pytest.approx(0.8078, abs=5e-4)
    assert detectable_difference(0.1, 34) == pytest.approx(0.05, rel=0.01)
    assert power_of(detectable_difference(0.07, 8), 0.07, 8) == pytest.approx(0.8)
    assert power_of(0.0, 1.0, 20) == pytest.approx(0.05)
    assert power_of(0.2, 1.0, 199) == pytest.approx(0.8, abs=2e-3)
    assert all(0 < detectable_difference(1.0, n) < 100 for n in range(2, 12))
    assert patients_needed(0.1, 0.05) == 34 and patients_needed(1.0, 0.2) == 199, "G*Power 3.1"
    assert detectable_difference(0.0, 5) == 0 and np.isnan(detectable_difference(1.0, 1))
