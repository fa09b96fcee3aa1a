"""Pairwise differences between arms: which were planned, what they are, and how sure they are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.scores import MEASURES, WHOLE_VOLUME
from gtvbench.bench.study.file import StatisticsOptions, problems
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.run.load import FinishedRun, comparable
from gtvbench.reports.statistics.intervals import bca_levels
from gtvbench.reports.statistics.paired import (
    DIGITS,
    equivalence_p,
    hodges_lehmann,
    holm,
    non_inferiority_p,
    probability_of_superiority,
    sign_flip_ps,
    signed_rank,
    smallest_p,
)
from gtvbench.reports.statistics.power import detectable_difference, patients_for_equivalence, patients_needed
from gtvbench.reports.statistics.ranking import (
    SCHEMES,
    Stability,
    critical_difference,
    friedman,
    nemenyi_distance,
    stability,
)

#: Resampling is of patients and always the same.
SEED = 0

LEVEL = 0.05

COLUMNS = (
    "structure", "metric", "planned", "one", "other", "n", "left_out", "mean_one", "mean_other", "difference", "low",
    "high", "interval", "low_90", "high_90", "p", "p_holm", "family", "p_sign_flip", "hodges_lehmann",
    "hodges_lehmann_low", "hodges_lehmann_high", "rank_biserial", "superiority", "sd", "detectable", "needed",
    "needed_equivalence", "margin", "p_equivalence", "p_non_inferiority",
)  # fmt: skip

_TUNED, _ZERO = "litemedsam-fine-tuned", "litemedsam-zero-shot"


def planned(arms: Sequence[ArmRecord]) -> list[tuple[str, str]]:
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

    Several cases of a patient are averaged. NaN where an arm lacks a value for any of a patient's cases:
    comparisons leave out that patient for that arm alone, and count it.
    """
    part = wide[(wide["scope"] == WHOLE_VOLUME) & (wide["structure"] == structure) & wide["present"]]
    cases = part.pivot(index=["patient", "case"], columns="arm", values=metric)
    gaps = cases.isna().groupby(level="patient").any()
    return cases.groupby(level="patient").mean().mask(gaps).sort_index()


def contrasts(run: FinishedRun, wide: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair of arms, structure and primary metric, over the patients whom both arms have a score for.

    Holm's adjustment is within the planned pairs of a structure and metric. `p` is Wilcoxon's signed-rank test; NaN
    where so few patients could never reach .05. `left_out` counts patients with the structure whom one of the two arms
    lacks a score for.
    """
    options = statistics_of(run)
    names = [arm.name for arm in run.scored_arms]
    wanted = planned_pairs(run)
    rest = [pair for pair in itertools.combinations(names, 2) if pair not in wanted and pair[::-1] not in wanted]
    rows: list[dict[str, Any]] = []
    for structure in run.structures:
        for metric in options.primary_metrics:
            table = by_patient(wide, structure, metric)
            margin = options.margin(metric, structure)
            for pairs, is_planned in ((wanted, True), (rest, False)):
                family = _family(table, pairs, MEASURES[metric].higher_is_better, margin, options.resamples)
                testable = [row for row in family if is_planned and np.isfinite(row["p"])]
                for row, p in zip(testable, holm([row["p"] for row in testable]), strict=True):
                    row["p_holm"] = float(p)
                rows += [{"structure": structure, "metric": metric, "planned": is_planned, **row} for row in family]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def planned_pairs(run: FinishedRun) -> list[tuple[str, str]]:
    """The planned contrasts of the arms with scores: `planned`, or the study file's.

    There a name without its seed stands for its repetitions.
    """
    declared = statistics_of(run).contrasts
    if declared is None:
        return planned(run.scored_arms)
    scored = {arm.name for arm in run.scored_arms}
    pairs = [
        (a.name, b.name)
        for one, other in declared
        for a in run.named(one)
        for b in run.named(other)
        if a.name != b.name and comparable(a, b) and {a.name, b.name} <= scored
    ]
    # A name and the same name with its seed may stand for one arm: each pair counts once.
    return list({frozenset(pair): pair for pair in reversed(pairs)}.values())[::-1]


def statistics_of(run: FinishedRun) -> StatisticsOptions:
    """What the study file says of the comparison; a run of before has the defaults. StoreError where it is no sense."""
    try:
        return StatisticsOptions.model_validate(run.study.get("statistics") or {})
    except ValidationError as error:
        raise StoreError(
            f"the block 'statistics' of the run's study file has {problems(error)}",
            remedy="correct study.yaml in the run folder; docs/study-reference.md has the options",
        ) from error


def _family(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], higher: bool, margin: float, resamples: int
) -> list[dict[str, Any]]:
    """Rows of the pairs that share at least one patient."""
    scored = table.notna()
    pairs = [
        (one, other)
        for one, other in pairs
        if {one, other} <= set(table.columns) and (scored[one] & scored[other]).any()
    ]
    if not pairs:
        return []
    one_of = table[[one for one, _ in pairs]].to_numpy(float)
    other_of = table[[other for _, other in pairs]].to_numpy(float)
    matrix = np.round(one_of - other_of, DIGITS)  # (patients, pairs), NaN where one lacks a score
    intervals, narrower = bca_levels(matrix, SEED, (1 - LEVEL, 1 - 2 * LEVEL), resamples)
    flips = sign_flip_ps(np.nan_to_num(matrix), SEED)
    rows = []
    for k, (one, other) in enumerate(pairs):
        shared = np.isfinite(matrix[:, k])
        d, n = matrix[shared, k], int(shared.sum())
        ranks, shift = signed_rank(d), hodges_lehmann(d)
        testable = smallest_p(n) <= LEVEL
        sd = float(d.std(ddof=1)) if n > 1 else float("nan")
        needed, equivalent = patients_needed(sd, margin), patients_for_equivalence(sd, margin)
        rows.append(
            {
                "one": one, "other": other, "n": n, "left_out": len(table) - n,
                "mean_one": float(one_of[shared, k].mean()), "mean_other": float(other_of[shared, k].mean()),
                "difference": float(d.mean()), "low": intervals[k].low, "high": intervals[k].high,
                "interval": intervals[k].method, "low_90": narrower[k].low, "high_90": narrower[k].high,
                "p": ranks.p if testable else float("nan"), "p_holm": float("nan"), "family": len(pairs),
                "p_sign_flip": float(flips[k]) if testable else float("nan"),
                "hodges_lehmann": shift.estimate, "hodges_lehmann_low": shift.low, "hodges_lehmann_high": shift.high,
                "rank_biserial": ranks.rank_biserial, "superiority": probability_of_superiority(d),
                "sd": sd, "detectable": detectable_difference(sd, n), "margin": margin,
                "needed": float("nan") if needed is None else float(needed),
                "needed_equivalence": float("nan") if equivalent is None else float(equivalent),
                "p_equivalence": equivalence_p(d, margin),
                "p_non_inferiority": non_inferiority_p(d if higher else -d, margin),
            }
        )  # fmt: skip
    return rows


def main_scheme(metric: str) -> str:
    """The way to rank that the page shows first: by the mean, or by the median where one penalty would move a mean."""
    return "mean-then-rank" if MEASURES[metric].bounded else "median-then-rank"


def rankings(run: FinishedRun, wide: pd.DataFrame) -> list[dict[str, Any]]:
    """Friedman's test, critical difference and the stability of each scheme, for each structure and primary metric.

    Arms without any score are left out, then patients whom any remaining arm lacks a score for: all arms are ranked on
    the same patients. Nothing where fewer than two arms or patients remain.
    """
    options = statistics_of(run)
    found = []
    for structure in run.structures:
        for metric in options.primary_metrics:
            every = by_patient(wide, structure, metric)
            table = every.dropna(axis=1, how="all").dropna(axis=0)
            if table.shape[0] < 2 or table.shape[1] < 2:
                continue
            higher = MEASURES[metric].higher_is_better
            values = table.to_numpy(float)
            omnibus = friedman(values)
            groups = critical_difference(values, higher_is_better=higher)
            held = {
                scheme: stability(values, scheme, SEED, higher_is_better=higher, resamples=options.resamples)
                for scheme in SCHEMES
            }
            found.append(
                {
                    "structure": structure, "metric": metric, "patients": len(table),
                    "left_out": len(every) - len(table), "arms": [str(arm) for arm in table.columns],
                    "friedman": None if omnibus is None else asdict(omnibus),
                    "mean_ranks": groups.mean_ranks.tolist(), "pairwise_p": groups.p.tolist(),
                    "cliques": [list(clique) for clique in groups.cliques],
                    "nemenyi": nemenyi_distance(table.shape[1], len(table)),
                    "schemes": {scheme: _stability_record(one) for scheme, one in held.items()},
                }
            )  # fmt: skip
    return found


def _stability_record(held: Stability) -> dict[str, Any]:
    return {
        "ranks": held.ranks.tolist(),
        "probability": held.probability.round(4).tolist(),
        "tau_b": [round(tau, 4) for tau in held.tau],
        "tau_b_shares": held.tau_shares.round(4).tolist(),
    }
