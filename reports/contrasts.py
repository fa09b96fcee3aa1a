"""Pairwise differences between arms: which were planned, what they are, and how sure they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from gtvbench.bench.study import StatisticsOptions
from gtvbench.reports.load import Arm, Run
from gtvbench.reports.statistics.intervals import bca_of_means
from gtvbench.reports.statistics.paired import (
    detectable_difference,
    differences_of,
    equivalence_p,
    hodges_lehmann,
    holm,
    non_inferiority_p,
    probability_of_superiority,
    sign_flip_p,
    signed_rank,
    smallest_p,
)
from gtvbench.reports.statistics.ranking import SCHEMES, friedman, stability
from gtvbench.reports.tables import PRIMARY_SCOPE

#: Primary metrics, and whether more is better.
PRIMARY = {"dsc": True, "hd95_mm": False}

#: Version of stats.json.
SCHEMA = 1

#: Resampling is of patients and always the same.
SEED = 0

LEVEL = 0.05

COLUMNS = (
    "structure", "metric", "planned", "one", "other", "n", "mean_one", "mean_other", "difference", "low", "high",
    "interval", "p", "p_holm", "family", "p_sign_flip", "hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high",
    "rank_biserial", "superiority", "sd", "detectable", "margin",
    "p_equivalence", "p_non_inferiority",
)  # fmt: skip

_TUNED, _ZERO = "litemedsam-fine-tuned", "litemedsam-zero-shot"


def planned(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """The contrasts (one, other) that are planned before any result is seen, of the arms there are.

    Fine-tuned against zero-shot within each fusion; multimodal against ct-only within each LiteMedSAM method;
    `nnunet-box` against `nnunet`; `nnunet-box` against each fine-tuned arm. Repetitions pair by their seed.
    """
    found = []
    for one, other in itertools.permutations(arms, 2):
        seeds = {arm.seed for arm in (one, other) if arm.trains}
        if len(seeds) > 1:
            continue
        kinds = (one.kind, other.kind)
        same_fusion = one.fusion == other.fusion
        chosen = (
            (kinds == (_TUNED, _ZERO) and same_fusion)
            or (
                one.method == other.method
                and one.kind in (_TUNED, _ZERO)
                and (one.fusion, other.fusion) == ("multimodal", "ct-only")
            )
            or (kinds == ("nnunet-box", "nnunet") and same_fusion)
            or kinds == ("nnunet-box", _TUNED)
        )
        if chosen:
            found.append((one.name, other.name))
    return found


def by_patient(wide: pd.DataFrame, structure: str, metric: str) -> pd.DataFrame:
    """Scored values (patients, arms) of the whole volume, of patients whose reference has the structure.

    Several cases of a patient are averaged; arms that lack a patient leave the table.
    """
    part = wide[(wide["scope"] == PRIMARY_SCOPE) & (wide["structure"] == structure) & wide["present"]]
    table = part.pivot_table(index="patient", columns="arm", values=metric, aggfunc="mean", observed=True)
    return table.dropna(axis=1).sort_index()


def contrasts(run: Run, wide: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair of arms, structure and primary metric.

    Holm's adjustment is within the planned pairs of a structure and metric. `p` is Wilcoxon's signed-rank test; NaN
    where so few patients could never reach .05.
    """
    options = statistics_of(run)
    names = [arm.name for arm in run.scored_arms]
    wanted = (
        planned(run.scored_arms) if options.contrasts is None else [c for c in options.contrasts if set(c) <= {*names}]
    )
    rest = [pair for pair in itertools.combinations(names, 2) if pair not in wanted and pair[::-1] not in wanted]
    rows: list[dict[str, Any]] = []
    for structure in run.structures:
        for metric in PRIMARY:
            table = by_patient(wide, structure, metric)
            for pairs, is_planned in ((wanted, True), (rest, False)):
                family = _family(table, pairs, metric, options)
                testable = [row for row in family if is_planned and np.isfinite(row["p"])]
                for row, p in zip(testable, holm([row["p"] for row in testable]), strict=True):
                    row["p_holm"] = float(p)
                rows += [{"structure": structure, "metric": metric, "planned": is_planned, **row} for row in family]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def statistics_of(run: Run) -> StatisticsOptions:
    """What the study file says of the comparison; a run of before has the defaults."""
    return StatisticsOptions.model_validate(run.study.get("statistics") or {})


def _family(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str, options: StatisticsOptions
) -> list[dict[str, Any]]:
    pairs = [pair for pair in pairs if set(pair) <= set(table.columns)]
    n = len(table)
    if not pairs or n == 0:
        return []
    matrix = np.stack([differences_of(table[one], table[other]) for one, other in pairs], axis=1)
    intervals = bca_of_means(matrix, SEED, resamples=options.resamples)
    margin = options.margin(metric)
    rows = []
    for k, (one, other) in enumerate(pairs):
        d = matrix[:, k]
        ranks, shift = signed_rank(d), hodges_lehmann(d)
        testable = smallest_p(n) <= LEVEL
        rows.append(
            {
                "one": one, "other": other, "n": n,
                "mean_one": float(table[one].mean()), "mean_other": float(table[other].mean()),
                "difference": float(d.mean()), "low": intervals[k].low, "high": intervals[k].high,
                "interval": intervals[k].method, "p": ranks.p if testable else float("nan"), "p_holm": float("nan"),
                "family": len(pairs), "p_sign_flip": sign_flip_p(d, SEED) if testable else float("nan"),
                "hodges_lehmann": shift.estimate, "hodges_lehmann_low": shift.low, "hodges_lehmann_high": shift.high,
                "rank_biserial": ranks.rank_biserial, "superiority": probability_of_superiority(d),
            }
        )  # fmt: skip
        sd = float(d.std(ddof=1)) if n > 1 else float("nan")
        gain = d if PRIMARY[metric] else -d
        rows[-1] |= {
            "sd": sd, "detectable": detectable_difference(sd, n), "margin": margin,
            "p_equivalence": equivalence_p(d, margin), "p_non_inferiority": non_inferiority_p(gain, margin),
        }  # fmt: skip
    return rows


def rankings(run: Run, wide: pd.DataFrame) -> list[dict[str, Any]]:
    """Friedman's test and the stability of each ranking scheme, for each structure and primary metric."""
    found = []
    for structure in run.structures:
        for metric, higher in PRIMARY.items():
            table = by_patient(wide, structure, metric)
            if table.shape[0] < 2 or table.shape[1] < 2:
                continue
            values = table.to_numpy(float)
            omnibus = friedman(values)
            record: dict[str, Any] = {
                "structure": structure, "metric": metric, "patients": len(table),
                "arms": [str(arm) for arm in table.columns],
                "friedman": None if omnibus is None else asdict(omnibus), "schemes": {},
            }  # fmt: skip
            for scheme in SCHEMES:
                held = stability(values, scheme, SEED, higher_is_better=higher)
                record["schemes"][scheme] = {
                    "ranks": held.ranks.tolist(), "probability": held.probability.round(4).tolist(),
                    "tau_b": [round(tau, 4) for tau in held.tau],
                }  # fmt: skip
            found.append(record)
    return found


def as_json(table: pd.DataFrame, ranked: list[dict[str, Any]]) -> dict[str, Any]:
    """Content of stats.json; numbers that do not exist are null."""
    rows = [
        {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in row.items()}
        for row in table.to_dict("records")
    ]
    return {"schema": SCHEMA, "seed": SEED, "level": LEVEL, "contrasts": rows, "rankings": ranked}
