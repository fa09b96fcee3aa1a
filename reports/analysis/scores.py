"""Tables of scores: pure functions from the long score table to numbers, no page and no figure.

Definitions: a case counts for a structure where its reference has that structure. Failed there means that no usable
mask exists (empty, missing, crashed, timed out, wrong geometry); the scoring step has given such cases their penalty
(DSC 0, NSD 0, HD95 and ASSD = diagonal of the grid), and they stay in every mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from gtvbench.bench.core.scores import FAILED, MEASURES, METRICS, REFERENCE_ABSENT, STATUSES, WHOLE_VOLUME

_KEYS = ["arm", "case", "patient", "structure", "scope"]


def wide_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, case, structure and scope, a column for each metric, and `status`, `present`, `failed`.

    `present` is whether the reference has the structure in that scope: its volume is above 0 in any arm's row, or,
    where no volume is recorded, the status does not say that it is empty and a DSC exists. A value that is not finite
    is none (NaN), but the status decides before the number: a failed case without a DSC or NSD has 0.
    """
    values = scores.pivot(index=_KEYS, columns="metric", values="value").reindex(columns=list(METRICS))
    values = values.where(np.isfinite(values))
    wide = values.join(scores.groupby(_KEYS)["status"].first()).reset_index()
    wide.columns.name = None
    volume = wide.groupby(["case", "structure", "scope"])["reference_volume_ml"].transform("max")
    guess = ~wide["status"].isin(REFERENCE_ABSENT) & wide["dsc"].notna()
    wide["present"] = np.where(volume.notna(), volume > 0, guess)
    wide["failed"] = wide["present"] & wide["status"].isin(FAILED)
    for metric in (name for name, measure in MEASURES.items() if measure.bounded):
        wide[metric] = wide[metric].mask(wide["failed"] & wide[metric].isna(), 0.0)
    return wide.astype(dict.fromkeys([*_KEYS, "status"], object))  # small tables: Arrow's strings are slower


def of_scope(wide: pd.DataFrame, scope: str) -> pd.DataFrame:
    """Rows of one scope."""
    return wide[wide["scope"] == scope]


def status_counts(wide: pd.DataFrame, arms: Sequence[str], structures: Sequence[str]) -> pd.DataFrame:
    """Cases of each status for each arm and structure, whole volume: columns arm, structure, cases, statuses."""
    volume = of_scope(wide, WHOLE_VOLUME)
    rows = []
    for arm in arms:
        for structure in structures:
            group = volume[(volume["arm"] == arm) & (volume["structure"] == structure)]
            if group.empty:
                continue
            counts = group["status"].value_counts()
            row: dict[str, object] = {"arm": arm, "structure": structure, "cases": len(group)}
            row.update({status: int(counts.get(status, 0)) for status in STATUSES})
            row["other"] = int(counts[~counts.index.isin(STATUSES)].sum())
            rows.append(row)
    return pd.DataFrame(rows, columns=["arm", "structure", "cases", *STATUSES, "other"])


def presence(wide: pd.DataFrame, structures: Sequence[str]) -> dict[str, tuple[int, int]]:
    """For each structure: test cases whose reference has it, and test cases scored at all (whole volume)."""
    volume = of_scope(wide, WHOLE_VOLUME)
    found = {}
    for structure in structures:
        cases = volume[volume["structure"] == structure].groupby("case")["present"].max()
        found[structure] = (int(cases.sum()), len(cases))
    return found


def aggregated_dsc(group: pd.DataFrame) -> float:
    """2 sum TP / sum(V_ref + V_pred) over cases, reference absent or not; a missing mask has no volume.

    Where no TP is recorded, it is recovered from the case's DSC and volumes; NaN where there is no volume at all.
    """
    predicted, reference = group["volume_ml"].fillna(0.0), group["reference_volume_ml"].fillna(0.0)
    total = predicted + reference
    recovered = (group["dsc"].fillna(0.0) * total).where(group["present"], 0.0)
    twice_tp = (2 * group["tp_mm3"] / 1000.0).fillna(recovered)
    return float(twice_tp.sum() / total.sum()) if total.sum() > 0 else float("nan")


def score_summary(wide: pd.DataFrame, scope: str, arms: Sequence[str], structures: Sequence[str]) -> pd.DataFrame:
    """One row for each structure and arm of a scope, over the cases whose reference has the structure.

    Columns: n, failed, unscored (a value that should be finite is not), mean, SD (n - 1), median, quartiles, 5th
    percentile and minimum of the DSC, median and failure rate of the HD95 (mm), mean NSD, median ASSD (mm), mean and
    median of the signed volume difference (mL), and the aggregated DSC over all cases.
    """
    part = of_scope(wide, scope)
    rows = []
    for structure in structures:
        for arm in arms:
            group = part[(part["arm"] == arm) & (part["structure"] == structure)]
            if not group.empty:
                rows.append({"structure": structure, "arm": arm, "scope": scope, **_summary(group)})
    return pd.DataFrame(rows, columns=["structure", "arm", "scope", *_summary(part.iloc[:0])])


def _summary(group: pd.DataFrame) -> dict[str, float | int]:
    present = group[group["present"]]
    scored = present[[*MEASURES, "volume_difference_ml"]]
    scored = scored.where(np.isfinite(scored))
    dsc, n = scored["dsc"], len(present)
    return {
        "n": n,
        "failed": int(present["failed"].sum()),
        "unscored": int(scored["dsc"].isna().sum()),
        "dsc_mean": float(dsc.mean()),
        "dsc_sd": float(dsc.std(ddof=1)) if dsc.notna().sum() > 1 else float("nan"),
        "dsc_median": float(dsc.median()),
        "dsc_q1": float(dsc.quantile(0.25)),
        "dsc_q3": float(dsc.quantile(0.75)),
        "dsc_p5": float(dsc.quantile(0.05)),
        "dsc_min": float(dsc.min()),
        "hd95_median_mm": float(scored["hd95_mm"].median()),
        "hd95_failure_rate": float(present["failed"].mean()) if n else float("nan"),
        "nsd_mean": float(scored["nsd"].mean()),
        "assd_median_mm": float(scored["assd_mm"].median()),
        "volume_difference_mean_ml": float(scored["volume_difference_ml"].mean()),
        "volume_difference_median_ml": float(scored["volume_difference_ml"].median()),
        "dsc_aggregated": aggregated_dsc(group),
    }


def false_positives(wide: pd.DataFrame, arms: Sequence[str], structures: Sequence[str]) -> pd.DataFrame:
    """Where the reference lacks the structure: cases, those with a false positive, those without a usable mask.

    Volumes (mL) are of the false positives alone; the rate is over the cases that have a usable mask.
    """
    absent = of_scope(wide, WHOLE_VOLUME)
    absent = absent[~absent["present"]]
    rows = []
    for structure in structures:
        for arm in arms:
            group = absent[(absent["arm"] == arm) & (absent["structure"] == structure)]
            if group.empty:
                continue
            found = group[group["status"] == "ref_empty_fp"]["volume_ml"]
            usable = int(group["status"].isin(REFERENCE_ABSENT).sum())
            rows.append(
                {
                    "structure": structure,
                    "arm": arm,
                    "cases": len(group),
                    "false_positive": len(found),
                    "true_negative": int((group["status"] == "both_empty").sum()),
                    "no_mask": len(group) - usable,
                    "rate": len(found) / usable if usable else float("nan"),
                    "volume_median_ml": float(found.median()) if len(found) else float("nan"),
                    "volume_max_ml": float(found.max()) if len(found) else float("nan"),
                }
            )
    columns = [
        "structure", "arm", "cases", "false_positive", "true_negative", "no_mask", "rate", "volume_median_ml",
        "volume_max_ml",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def sensitivity(wide: pd.DataFrame, arms: Sequence[str], structures: Sequence[str]) -> pd.DataFrame:
    """Mean DSC under four conventions (docs/scoring.md): the order of methods should not hang on the choice.

    `present`: cases with a reference (primary); `empty_is_one`: a correct empty mask scores 1 and a false positive 0;
    `complete`: cases that every arm segmented; `aggregated`: pooled over cases. `n_complete` counts the third.
    """
    volume = of_scope(wide, WHOLE_VOLUME)
    rows = []
    for structure in structures:
        part = volume[volume["structure"] == structure]
        usable = part.assign(ok=part["status"].eq("ok")).groupby("case")["ok"].all()
        complete = set(usable[usable].index)
        for arm in arms:
            group = part[part["arm"] == arm]
            if group.empty:
                continue
            by_convention = group["dsc"].where(group["present"], group["status"].eq("both_empty").astype(float))
            rows.append(
                {
                    "structure": structure,
                    "arm": arm,
                    "present": float(group.loc[group["present"], "dsc"].mean()),
                    "empty_is_one": float(by_convention.mean()),
                    "complete": float(group.loc[group["case"].isin(complete), "dsc"].mean()),
                    "n_complete": len(complete),
                    "aggregated": aggregated_dsc(group),
                }
            )
    columns = ["structure", "arm", "present", "empty_is_one", "complete", "n_complete", "aggregated"]
    return pd.DataFrame(rows, columns=columns)


def order_changes(table: pd.DataFrame, structure: str) -> list[str]:
    """Columns of `sensitivity` under which the arms of a structure come in another order than under `present`.

    Means are rounded to 1e-9 first, so that floating-point noise does not make an order.
    """
    part = table[table["structure"] == structure]
    if len(part) < 2:
        return []
    primary = part["present"].round(9).rank(method="min")
    changed = []
    for column in ("empty_is_one", "complete", "aggregated"):
        other = part[column].round(9)
        if other.notna().any() and not other.rank(method="min").equals(primary):
            changed.append(column)
    return changed


def per_case(wide: pd.DataFrame, structure: str, metric: str, arms: Sequence[str]) -> pd.DataFrame:
    """Scored values of one metric: a row for each case with a reference, a column for each arm (whole volume)."""
    part = of_scope(wide, WHOLE_VOLUME)
    part = part[(part["structure"] == structure) & part["present"] & part["arm"].isin(list(arms))]
    table = part.pivot(index="case", columns="arm", values=metric).sort_index()
    return table.reindex(columns=[arm for arm in arms if arm in table.columns])


def best_arms(summary: pd.DataFrame, structure: str, column: str = "dsc_mean", lowest: bool = False) -> list[str]:
    """Arms that share the best value of a column to three decimals; none where no value exists."""
    part = summary[summary["structure"] == structure].dropna(subset=[column])
    if part.empty:
        return []
    rounded = part[column].round(3)
    best = rounded.min() if lowest else rounded.max()
    return [str(arm) for arm in part.loc[rounded == best, "arm"]]
