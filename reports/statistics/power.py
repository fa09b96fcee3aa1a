"""What a study of so many patients could have shown, and how many it would have needed (Cohen 1988; Phillips 1990)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

#: Beyond so many patients t and normal quantiles agree to four digits: the normal formula stands.
_LARGE = 20_000


def power_of(difference: float, sd: float, n: int, level: float = 0.05) -> float:
    """Power of the two-sided paired t test (Cohen 1988); the signed-rank test has about 95 % of its efficiency."""
    if n < 2:
        return 0.0
    if sd == 0:
        return 1.0 if difference else level
    shift = abs(difference) / sd * np.sqrt(n)
    critical = stats.t.ppf(1 - level / 2, n - 1)
    found = float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))
    return found if np.isfinite(found) else 1.0  # SciPy has no value far out, where the power is 1


def detectable_difference(sd: float, n: int, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest mean difference that n pairs of this spread show with this power; NaN below two pairs."""
    if n < 2 or not np.isfinite(sd):
        return float("nan")
    return sd * _standardised(n, power, level)


@lru_cache(maxsize=256)
def _standardised(n: int, power: float, level: float) -> float:
    """The detectable difference in units of the SD of the differences."""
    top = 1.0
    while power_of(top, 1.0, n, level) < power:
        top *= 2
    return float(optimize.brentq(lambda d: power_of(d, 1.0, n, level) - power, 1e-6, top))


def patients_needed(sd: float, margin: float, power: float = 0.8, level: float = 0.05) -> int | None:
    """Smallest number of patients with which the two-sided paired t test shows a mean difference of `margin`.

    `sd` is of the paired differences (ddof 1); exact by the noncentral t distribution (Cohen 1988). None where the SD
    is unknown.
    """
    if not np.isfinite(sd):
        return None
    z = stats.norm.isf(level / 2) + stats.norm.ppf(power)
    return _smallest(lambda n: power_of(margin, sd, n, level), power, z, sd / margin)


def patients_for_equivalence(sd: float, margin: float, power: float = 0.8, level: float = 0.05) -> int | None:
    """Smallest number of patients with which two one-sided t tests show that arms without difference are equivalent.

    The power is the bound 2 P(T > t) - 1 with T noncentral t at margin / (sd / sqrt(n)): at most a patient or two above
    the exact number at usual powers (Phillips, J Pharmacokinet Biopharm 18:137, 1990). None where the SD is unknown.
    """
    if not np.isfinite(sd):
        return None

    def bound(n: int) -> float:
        if sd == 0:
            return 1.0
        critical = stats.t.isf(level, n - 1)
        return 2 * float(stats.nct.sf(critical, n - 1, margin / sd * math.sqrt(n))) - 1

    return _smallest(bound, power, stats.norm.isf(level) + stats.norm.ppf((1 + power) / 2), sd / margin)


def _smallest(power_at: Callable[[int], float], power: float, z: float, ratio: float) -> int:
    """Smallest n of at least 2 that reaches the power, sought from the normal formula (z ratio)^2 on."""
    n = max(2, math.ceil((z * ratio) ** 2))
    if n > _LARGE:
        return n
    while power_at(n) < power:
        n += 1
    while n > 2 and power_at(n - 1) >= power:
        n -= 1
    return n
