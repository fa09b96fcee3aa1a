"""Which cases are shown: by rule, for every arm and structure, so that nobody picks the pretty ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gtvbench.bench.core.scores import WHOLE_VOLUME
from gtvbench.reports.analysis.scores import of_scope

WORST, FAILED, MEDIAN, BEST = "worst", "failed", "median", "best"
#: In the order in which cases are taken where there is no room for all.
ORDER = (FAILED, WORST, MEDIAN, BEST)

RULE = (
    "For each arm and structure: the case with the lowest DSC, the one nearest the median and the one with the highest "
    "(ties: the first by name) among the cases with a usable mask, and every case without one."
)


@dataclass(frozen=True)
class Reason:
    """Why a case is shown: what it is for one arm and structure, and its scores there (HD95 in mm)."""

    case: str
    arm: str
    structure: str
    roles: tuple[str, ...]
    dsc: float
    hd95_mm: float
    status: str


def reasons(wide: pd.DataFrame, arms: Sequence[str], structures: Sequence[str]) -> list[Reason]:
    """Every reason to show a case (`RULE`), by structure and arm; a case that has several roles for one arm is one."""
    part = of_scope(wide, WHOLE_VOLUME)
    part = part[part["present"]]
    found = []
    for structure in structures:
        for arm in arms:
            own = part[(part["structure"] == structure) & (part["arm"] == arm)].sort_values("case")
            found += _of_arm(own, arm, structure)
    return found


def _of_arm(own: pd.DataFrame, arm: str, structure: str) -> list[Reason]:
    roles: dict[int, list[str]] = {int(row): [FAILED] for row in np.flatnonzero(own["failed"])}
    dsc = own["dsc"].to_numpy(float)
    usable = np.flatnonzero(~own["failed"].to_numpy(bool) & np.isfinite(dsc))
    if len(usable):
        scores = dsc[usable]
        # Rounded, so that the same table gives the same choice whatever the order of summation.
        distances = np.round(np.abs(scores - np.median(scores)), 9)
        for role, place in ((WORST, np.argmin(scores)), (MEDIAN, np.argmin(distances)), (BEST, np.argmax(scores))):
            roles.setdefault(int(usable[place]), []).append(role)
    columns = own[["case", "dsc", "hd95_mm", "status"]].itertuples(index=False)
    return [
        Reason(str(case), arm, structure, tuple(roles[row]), float(d), float(h), str(status))
        for row, (case, d, h, status) in enumerate(columns)
        if row in roles
    ]


def chosen(found: Sequence[Reason]) -> list[str]:
    """The cases shown, each once: failed ones first, then worst, median and best, by name within a role.

    Cases that are in a role for more arms and structures come first.
    """
    ranks: dict[str, tuple[int, int, str]] = {}
    for case in sorted({reason.case for reason in found}):
        places = [ORDER.index(role) for reason in found if reason.case == case for role in reason.roles]
        ranks[case] = (min(places), -places.count(min(places)), case)
    return sorted(ranks, key=lambda case: ranks[case])
