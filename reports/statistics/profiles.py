"""How a score is distributed over patients and over volumes: performance profiles, smoothers, thirds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.nonparametric.smoothers_lowess import lowess

Values = npt.NDArray[np.float64]

#: A smoother is drawn from so many patients on, with this share of them in each local line (Cleveland 1979: 2/3).
MIN_SMOOTH, FRACTION = 10, 2 / 3


def performance_profile(
    values: npt.ArrayLike, thresholds: npt.ArrayLike, *, higher_is_better: bool = True, confidence: float = 0.95
) -> tuple[Values, Values, Values]:
    """Share of patients at least as good as each threshold (score >= t, or <= t), and a pointwise band.

    (Dolan & More, Math Program 91:201, 2002; Agarwal et al., NeurIPS 2021.) The band is the percentile interval of the
    patient bootstrap. No resample is drawn: the number of patients who reach t in a resample is binomial(n, share), so
    its quantiles are exact. Values are rounded to 1e-9, so that noise moves no patient over a threshold.
    """
    scores, limits = np.round(np.asarray(values, float), 9), np.round(np.asarray(thresholds, float), 9)
    n = len(scores)
    if n == 0:
        nothing = np.full(len(limits), np.nan)
        return nothing, nothing, nothing
    reached = scores[:, None] >= limits if higher_is_better else scores[:, None] <= limits
    share: Values = reached.mean(0)
    tail = (1 - confidence) / 2
    low, high = stats.binom.ppf(tail, n, share) / n, stats.binom.ppf(1 - tail, n, share) / n
    return share, np.clip(low, 0, 1), np.clip(high, 0, 1)


def smooth(scores: npt.ArrayLike, x: npt.ArrayLike, at: npt.ArrayLike) -> Values | None:
    """Lowess of scores against x, evaluated at `at` (Cleveland, J Am Stat Assoc 74:829, 1979; statsmodels).

    Without Cleveland's robust rounds, which would take failed cases for outliers and draw the line past them. None
    below MIN_SMOOTH patients or half as many different x.
    """
    y, places = np.asarray(scores, float), np.asarray(x, float)
    if len(y) < MIN_SMOOTH or len(np.unique(places)) < MIN_SMOOTH // 2:
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(lowess(y, places, frac=FRACTION, it=0, xvals=np.asarray(at, float)), float)
    return found if np.isfinite(found).all() else None


def thirds(volumes: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], float, float]:
    """Third of each patient by volume (0: smallest) and the two volumes that part them; equal volumes stay together."""
    v = np.asarray(volumes, float)
    first, second = (float(q) for q in np.quantile(v, [1 / 3, 2 / 3]))
    return (v > first).astype(np.intp) + (v > second), first, second
