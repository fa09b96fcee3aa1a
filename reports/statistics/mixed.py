"""A linear model with a random intercept for each patient: effects, Wald tests, intervals by resampling patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from gtvbench.reports.statistics.intervals import over_draws

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RandomIntercept:
    """A fitted model. Arrays are (effects,): estimate, Wald standard error and p, interval by resampling patients.

    `covariance` (effects, effects) of the estimates; `group_sd` between patients and `residual_sd` within them; `note`
    is empty where the fit converged, else says why there is none or what to beware of; `converged` false: all is NaN.
    """

    estimates: Values
    errors: Values
    p: Values
    low: Values
    high: Values
    covariance: Values
    group_sd: float
    residual_sd: float
    converged: bool
    note: str

    def joint_test(self, effects: Sequence[int]) -> tuple[float, int, float]:
        """Wald chi-square, degrees of freedom and p of the hypothesis that all these effects are 0."""
        chosen = list(effects)
        if not self.converged or not chosen:
            return float("nan"), len(chosen), float("nan")
        part = self.covariance[np.ix_(chosen, chosen)]
        chi2 = float(self.estimates[chosen] @ np.linalg.pinv(part) @ self.estimates[chosen])
        return chi2, len(chosen), float(stats.chi2.sf(chi2, len(chosen)))


def random_intercept(
    scores: npt.ArrayLike, design: npt.ArrayLike, patients: Sequence[object], seed: int = 0, resamples: int = 10_000
) -> RandomIntercept:
    """Fit score = design @ effects + patient + noise by REML (Laird & Ware, Biometrics 38:963, 1982).

    `scores` (rows,), `design` (rows, effects), `patients` (rows,) names the group of each row. p values are Wald's
    (normal). The 95 % intervals are percentiles over `resamples` of whole patients, for which the ratio of the
    variances is held at its estimate: all rows of a patient, whatever the structure, are drawn together. Never raises
    and never warns: a fit that is singular or does not converge says so in `note`.
    """
    y, x = np.asarray(scores, float), np.asarray(design, float)
    groups = np.unique(np.asarray([str(p) for p in patients]), return_inverse=True)[1]
    reason = _impossible(y, x, groups)
    if reason:
        return _none(x.shape[1] if x.ndim == 2 else 0, reason)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            # One variance ratio to seek: Powell's search needs no gradient, which does not vanish where the ratio is 0.
            fit = MixedLM(y, x, groups).fit(reml=True, method="powell")
            variance = float(np.asarray(fit.cov_re)[0, 0])
            estimates, errors, p = (
                np.asarray(a, float)[: x.shape[1]] for a in (fit.fe_params, fit.bse_fe, fit.pvalues)
            )
            covariance = np.asarray(fit.cov_params(), float)[: x.shape[1], : x.shape[1]]
            residual, converged = float(fit.scale), bool(fit.converged)
        except (np.linalg.LinAlgError, ValueError, ArithmeticError) as error:
            return _none(x.shape[1], f"did not converge: {error}")
    if not converged or not np.isfinite(estimates).all() or not np.isfinite(errors).all() or residual <= 0:
        told = "; ".join(dict.fromkeys(str(w.message).split("\n")[0] for w in caught))
        return _none(x.shape[1], f"did not converge: {told or 'no maximum was found'}")
    low, high = _resampled(y, x, groups, variance / residual, seed, resamples)
    # At the boundary statsmodels warns, but the fixed effects are those of least squares and stand.
    note = "patients do not differ beyond noise: their variance is estimated as 0" if variance < 1e-6 * residual else ""
    if np.isnan(low).any():
        note = "; ".join(filter(None, (note, "no resampled intervals: too many resamples cannot be fitted")))
    sds = float(np.sqrt(variance)), float(np.sqrt(residual))
    return RandomIntercept(estimates, errors, p, low, high, covariance, *sds, True, note)


def _impossible(y: Values, x: Values, groups: npt.NDArray[np.intp]) -> str:
    """Why the model cannot be fitted, or nothing."""
    if len(y) == 0:
        return "did not converge: no scores"
    if not np.isfinite(y).all() or not np.isfinite(x).all():
        return "did not converge: scores that are not finite"
    if groups.max() < 2:
        return "did not converge: fewer than three patients"
    if len(y) <= x.shape[1] + 1:
        return "did not converge: no more scores than effects"
    if np.ptp(y) <= 1e-12 * max(1.0, float(abs(y).max())):
        return "did not converge: all scores are equal"
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return "did not converge: effects that cannot be told apart"
    if np.linalg.norm(y - x @ np.linalg.lstsq(x, y)[0]) <= 1e-9 * np.linalg.norm(y):
        return "did not converge: the effects explain every score"
    return ""


def _none(effects: int, note: str) -> RandomIntercept:
    nan = np.full(effects, np.nan)
    square = np.full((effects, effects), np.nan)
    return RandomIntercept(nan, nan, nan, nan, nan, square, float("nan"), float("nan"), False, note)


def _resampled(
    y: Values, x: Values, groups: npt.NDArray[np.intp], ratio: float, seed: int, resamples: int
) -> tuple[Values, Values]:
    """95 % percentile interval of the generalised least squares estimate over resamples of groups.

    A group of m rows has V = I + ratio 1 1', whose inverse is I - ratio / (1 + m ratio) 1 1'; each group adds
    X' V^-1 X and X' V^-1 y, so that a resample is a weighted sum of these.
    """
    n, effects = int(groups.max()) + 1, x.shape[1]
    left, right = np.zeros((n, effects, effects)), np.zeros((n, effects))
    for g in range(n):
        xg, yg = x[groups == g], y[groups == g]
        shrink = ratio / (1 + len(yg) * ratio)
        left[g] = xg.T @ xg - shrink * np.outer(xg.sum(0), xg.sum(0))
        right[g] = xg.T @ yg - shrink * xg.sum(0) * yg.sum()

    def estimates(counts: Values) -> Values:
        lefts = (counts @ left.reshape(n, -1)).reshape(-1, effects, effects)
        rights = counts @ right
        # A resample may lack a structure: what cannot be solved is left out.
        scale = np.sqrt(np.maximum(np.diagonal(lefts, axis1=1, axis2=2), 1e-300))
        scaled = lefts / (scale[:, :, None] * scale[:, None, :])
        solvable = np.linalg.eigvalsh(scaled)[:, 0] > 1e-10
        found = np.full(rights.shape, np.nan)
        found[solvable] = np.linalg.solve(scaled[solvable], (rights / scale)[solvable][..., None])[..., 0]
        return found / scale

    every = over_draws(estimates, n, seed, resamples)
    every = every[~np.isnan(every[:, 0])]
    if len(every) < 0.95 * resamples:
        return np.full(effects, np.nan), np.full(effects, np.nan)
    low, high = np.quantile(every, [0.025, 0.975], axis=0)
    return low, high
