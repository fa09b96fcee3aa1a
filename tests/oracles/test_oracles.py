"""Statistics against independent packages: pingouin (GPL-3: in development only), scikit-posthocs, statsmodels.

Collected only where pingouin and scikit-posthocs are installed: they are no dependencies of gtvbench.
"""

import numpy as np
import pandas as pd
import pingouin
import pytest
import scikit_posthocs as posthocs
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from gtvbench.reports.statistics.agreement import icc, icc_agreement, variance_components
from gtvbench.reports.statistics.mixed import random_intercept
from gtvbench.reports.statistics.paired import (
    holm,
    probability_of_superiority,
    signed_rank,
)
from gtvbench.reports.statistics.power import patients_needed, power_of
from gtvbench.reports.statistics.ranking import critical_difference, friedman, nemenyi_distance, pairwise_p

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations are not under test here

MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75.0])
JUDGES = np.array([[9, 6, 8, 7, 10, 6], [2, 1, 4, 1, 5, 2], [5, 3, 6, 2, 6, 4], [8, 2, 8, 6, 9, 7]]).T


def arms(seed: int = 0, patients: int = 25, count: int = 5) -> np.ndarray:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(0, 1, (patients, 1)) + np.linspace(0, 1.2, count), 0.8)


def long(table: np.ndarray) -> pd.DataFrame:  # type: ignore[type-arg]
    who, arm = np.indices(table.shape)
    return pd.DataFrame({"who": who.ravel(), "arm": arm.ravel(), "value": table.ravel()})


def test_pingouin_has_the_same_signed_rank_test_and_effect_sizes() -> None:
    theirs = pingouin.wilcoxon(MAIZE, np.zeros(15), method="exact").iloc[0]
    ours = signed_rank(MAIZE)
    p = theirs.get("p_val", theirs.get("p-val"))
    assert (ours.statistic, ours.p) == (theirs["W_val"] if "W_val" in theirs else theirs["W-val"], pytest.approx(p))
    assert ours.rank_biserial == pytest.approx(theirs["RBC"])
    assert probability_of_superiority(MAIZE) == pytest.approx(13 / 15)


def test_pingouin_has_the_same_intraclass_correlations_and_interval() -> None:
    table = long(JUDGES)
    theirs = pingouin.intraclass_corr(table, targets="who", raters="arm", ratings="value").set_index("Type")
    values = theirs["ICC"].to_numpy(float)
    assert icc(JUDGES) == pytest.approx(tuple(values[:3]), abs=5e-4)
    low, high = theirs[next(c for c in theirs.columns if c.startswith("CI95"))].iloc[1]
    assert icc_agreement(JUDGES)[1:] == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_statsmodels_and_pingouin_have_the_same_adjustment() -> None:
    p = np.random.default_rng(0).uniform(0, 0.2, (3, 12))
    for row, adjusted in zip(p, holm(p), strict=True):
        np.testing.assert_allclose(adjusted, multipletests(row, method="holm")[1])
        np.testing.assert_allclose(adjusted, pingouin.multicomp(row, method="holm")[1])


def test_pingouin_has_the_same_friedman_test() -> None:
    table = np.round(arms(), 1)
    theirs = pingouin.friedman(long(table), dv="value", within="arm", subject="who").iloc[0]
    ours = friedman(table)
    assert ours is not None and ours.kendall_w == pytest.approx(theirs["W"], abs=1e-4)
    assert (ours.chi2, ours.p) == (
        pytest.approx(theirs["Q"], rel=1e-3),
        pytest.approx(theirs.get("p_unc", theirs.get("p-unc")), rel=1e-3),
    )


def test_scikit_posthocs_has_the_same_pairwise_tests() -> None:
    table = arms(1)
    frame = long(table)
    theirs = posthocs.posthoc_wilcoxon(frame, val_col="value", group_col="arm", p_adjust="holm", method="exact")
    np.testing.assert_allclose(pairwise_p(table), theirs.to_numpy(), rtol=1e-9)
    nemenyi = posthocs.posthoc_nemenyi_friedman(table).to_numpy()
    ranks = critical_difference(table, higher_is_better=False).mean_ranks
    apart = abs(ranks[:, None] - ranks) > nemenyi_distance(table.shape[1], len(table))
    np.testing.assert_array_equal(apart, nemenyi < 0.05)


def test_statsmodels_has_the_same_power_and_number_of_patients() -> None:
    solver = TTestPower()
    for effect in (0.3, 0.5, 1.1):
        exact = solver.solve_power(effect, power=0.8, alpha=0.05)
        assert patients_needed(1.0, effect) == int(np.ceil(exact))
        assert power_of(effect, 1.0, 20) == pytest.approx(solver.power(effect, 20, 0.05), abs=1e-9)
        assert patients_needed(1.0, effect) == int(np.ceil(pingouin.power_ttest(effect, power=0.8, contrast="paired")))


def test_analysis_of_variance_has_the_model_of_balanced_patients() -> None:
    # With every patient on every arm the contrast's error is that of repeated-measures analysis of variance.
    table = arms(2, 30, 3)
    who, arm = (index.ravel() for index in np.indices(table.shape))
    design = np.stack([np.ones(len(who)), arm == 1, arm == 2], axis=1).astype(float)
    fit = random_intercept(table.ravel(), design, who.tolist(), resamples=1000)
    anova = pingouin.rm_anova(long(table), dv="value", within="arm", subject="who", detailed=True)
    residual = float(anova["MS"].iloc[1])
    assert fit.residual_sd**2 == pytest.approx(residual, rel=1e-3)
    assert fit.errors[1] == pytest.approx(np.sqrt(2 * residual / 30), rel=1e-3)
    assert fit.joint_test([1, 2])[0] / 2 == pytest.approx(float(anova["F"].iloc[0]), rel=2e-3)
    parts = variance_components(table)
    assert parts is not None and parts.within**2 == pytest.approx(residual, rel=1e-3)
