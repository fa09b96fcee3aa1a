"""Tables of comparisons: differences, rankings, subgroups, agreement, profiles, repetitions, models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import MEASURES
from gtvbench.reports.analysis.contrasts import LEVEL, main_scheme
from gtvbench.reports.analysis.models import Model
from gtvbench.reports.tables.table import Cell, Table, between, row_of
from gtvbench.reports.text.numbers import ABSENT, interval, number, p_value, percent, signed


def sensitivity_table(table: pd.DataFrame, structure: str, name: str) -> Table:
    """Mean DSC of one structure under four conventions."""
    part = table[table["structure"] == structure]
    rows = [
        row_of(str(r["arm"]), *(number(r[c], 3) for c in ("present", "empty_is_one", "complete", "aggregated")))
        for r in part.to_dict("records")
    ]
    complete = int(part["n_complete"].iloc[0]) if len(part) else 0
    head = ("Arm", "reference present", "empty counts as 1", f"complete cases (n = {complete})", "aggregated")
    return Table(name, f"{structure}: mean DSC by convention", head, tuple(rows))


def against_margin(record: Mapping[Any, Any]) -> str:
    """What the margin of the study file says of a difference, at .05; `better` lies wholly beyond it."""
    higher = MEASURES[record["metric"]].higher_is_better
    low, high = (record["low"], record["high"]) if higher else (-record["high"], -record["low"])
    if low > record["margin"]:
        return "better"
    if high < -record["margin"]:
        return "worse"
    if record["p_equivalence"] < LEVEL:
        return "equivalent"
    return "not worse" if record["p_non_inferiority"] < LEVEL else "open"


def contrast_table(table: pd.DataFrame, structure: str, metric: str, planned: bool, name: str) -> Table:
    """Differences between pairs of arms in one structure and metric."""
    chosen = (table["structure"] == structure) & (table["metric"] == metric) & (table["planned"] == planned)
    measure = MEASURES[metric]
    digits = measure.digits
    rows = []
    for r in table[chosen].to_dict("records"):
        better = r["superiority"] if measure.higher_is_better else 1 - r["superiority"]
        cells: list[str | Cell] = [
            Cell(f"{r['one']} \u2212 {r['other']}", wordy=True), str(r["n"]), signed(r["difference"], digits),
            interval(r["low"], r["high"], digits), signed(r["hodges_lehmann"], digits), signed(r["rank_biserial"], 2),
            percent(better), number(r["detectable"], digits), number(r["needed"], 0), against_margin(r),
            p_value(r["p"]),
        ]  # fmt: skip
        rows.append(row_of(*cells, p_value(r["p_holm"])) if planned else row_of(*cells))
    head = (
        "Difference", "n", "mean", "95 % CI", "Hodges-Lehmann", "rank-biserial", "P(first better)", "detectable",
        "n for the margin", "margin", "p", *(["p, Holm"] if planned else []),
    )  # fmt: skip
    kind = "planned" if planned else "exploratory"
    return Table(name, f"{structure}, {measure.named}: {kind} differences", head, tuple(rows))


#: The smallest group of patients whose mean gets an interval: below it resamples hold next to nothing.
MIN_FOR_INTERVAL = 6

#: Ways to rank, as their columns are headed.
SCHEME_NAMES = {
    "mean-then-rank": "mean",
    "median-then-rank": "median",
    "rank-then-mean": "mean rank",
    "test-then-rank": "tests won",
}


def ranking_table(ranked: Mapping[str, Any], name: str) -> Table:
    """How often each arm has each rank when other patients are drawn, and its rank under every scheme."""
    schemes, chosen = ranked["schemes"], main_scheme(ranked["metric"])
    main = schemes[chosen]
    order = sorted(range(len(ranked["arms"])), key=lambda k: (main["ranks"][k], ranked["arms"][k]))
    rows = [
        row_of(
            ranked["arms"][k],
            number(ranked["mean_ranks"][k], 2),
            *(f"{schemes[s]['ranks'][k]:g}" for s in schemes),
            *(
                percent(schemes[s]["probability"][k][0]) if len(set(schemes[s]["ranks"])) > 1 else ABSENT
                for s in schemes
            ),
            *(percent(share) if share else ABSENT for share in main["probability"][k]),
        )
        for k in order
    ]
    count = len(ranked["arms"])
    groups = (
        ("", 1),
        ("Mean", 1),
        ("Rank by", len(schemes)),
        ("First in resamples, by", len(schemes)),
        (f"Share of resamples at rank, by {SCHEME_NAMES[chosen]}", count),
    )
    caption = f"{ranked['structure']}, {MEASURES[ranked['metric']].title}: ranking of the arms"
    names = [SCHEME_NAMES[s] for s in schemes]
    head = ("Arm", "rank", *names, *names, *(str(place + 1) for place in range(count)))
    return Table(name, caption, head, tuple(rows), groups)


def tau_table(ranked: Mapping[str, Any], name: str) -> Table:
    """Kendall's tau-b between the ranking of all patients and those of the resamples, for every scheme."""
    rows = [
        row_of(SCHEME_NAMES[scheme], *(number(value, 2) for value in held["tau_b"]))
        for scheme, held in ranked["schemes"].items()
    ]
    caption = (
        f"{ranked['structure']}, {MEASURES[ranked['metric']].title}: Kendall's tau-b with the ranking of all patients"
    )
    return Table(name, caption, ("Ranked by", "5th percentile", "median", "95th percentile"), tuple(rows))


def intervals_table(table: pd.DataFrame, structure: str, name: str) -> Table:
    """Means of overlap metrics and medians of distances with their 95 % intervals, and the tail of the DSC."""
    part = table[table["structure"] == structure].set_index(["metric", "arm"])
    rows = []
    for arm in dict.fromkeys(table.loc[table["structure"] == structure, "arm"]):
        dsc = part.loc[("dsc", arm)]
        cells = [str(arm), str(dsc["n"]), number(dsc["mean"], 3), between(dsc["mean_low"], dsc["mean_high"], 3)]
        cells += [number(dsc["p5"], 3), number(dsc["minimum"], 3)]
        for metric, middle in (("hd95_mm", "median"), ("nsd", "mean"), ("assd_mm", "median")):
            r, digits = part.loc[(metric, arm)], MEASURES[metric].digits
            cells += [number(r[middle], digits), between(r[f"{middle}_low"], r[f"{middle}_high"], digits)]
        rows.append(row_of(*cells))
    groups = (("", 1), ("DSC", 5), ("HD95, mm", 2), ("NSD", 2), ("ASSD, mm", 2))
    head = (
        "Arm", "n", "mean", "95 % CI", "5th percentile", "min", "median", "95 % CI", "mean", "95 % CI", "median",
        "95 % CI",
    )  # fmt: skip
    caption = f"{structure}: 95 % confidence intervals over patients"
    return Table(name, caption, head, tuple(rows), groups)


def subgroup_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Mean score of each arm in each third of the patients by reference volume, with its interval."""
    part = table[(table["structure"] == structure) & (table["metric"] == metric)]
    digits = MEASURES[metric].digits
    thirds = part.drop_duplicates("third")
    cells = {
        (r["arm"], r["third"]): (
            number(r["mean"], digits),
            between(r["low"], r["high"], digits) if r["n"] >= MIN_FOR_INTERVAL else ABSENT,
        )
        for r in part.to_dict("records")
    }
    names = [str(third) for third in thirds["third"]]
    rows = [
        row_of(str(arm), *(text for third in names for text in cells.get((arm, third), (ABSENT, ABSENT))))
        for arm in dict.fromkeys(part["arm"])
    ]
    groups = [("", 1)]
    for r in thirds.to_dict("records"):
        groups.append((f"{r['third']}: {number(r['from_ml'], 1)} to {number(r['to_ml'], 1)} mL, n = {r['n']}", 2))
    head = ("Arm", *["mean", "95 % CI"] * len(names))
    caption = f"{structure}: {MEASURES[metric].named} by thirds of the reference volume"
    return Table(name, caption, head, tuple(rows), tuple(groups))


def agreement_table(table: pd.DataFrame, structure: str, name: str) -> Table:
    """Bland-Altman limits in mL and as ratio, and the intraclass correlation, of each arm."""
    rows = [
        row_of(
            str(r["arm"]), str(r["n"]), str(r["empty"]), signed(r["difference_ml"], 2),
            interval(r["difference_low_ml"], r["difference_high_ml"], 2), number(r["ratio"], 2),
            between(r["ratio_low"], r["ratio_high"], 2), number(r["icc"], 3), between(r["icc_low"], r["icc_high"], 3),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    groups = (("", 1), ("Patients", 2), ("Difference, mL", 2), ("Ratio (geometric)", 2), ("ICC(A,1)", 2))
    head = ("Arm", "n", "no mask", "mean", "95 % limits", "mean", "95 % limits", "estimate", "95 % CI")
    return Table(name, f"{structure}: predicted against reference volume", head, tuple(rows), groups)


def profile_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Share of patients that reach a few thresholds, with the pointwise interval."""
    measure = MEASURES[metric]
    every = sorted(set(table["threshold"]))
    wanted = (0.5, 0.6, 0.7, 0.8, 0.9) if measure.bounded else (2, 5, 10, 20, 50)
    chosen = sorted({min(every, key=lambda t: abs(t - w)) for w in wanted if w <= every[-1]} or {every[-1]})
    wide = table.set_index(["arm", "threshold"])
    rows = []
    for arm in dict.fromkeys(table["arm"]):
        cells = []
        for threshold in chosen:
            r = wide.loc[(arm, threshold)]
            cells.append(f"{percent(r['share'])} ({percent(r['low'])} to {percent(r['high'])})")
        rows.append(row_of(str(arm), *cells))
    sign = "≥" if measure.higher_is_better else "≤"
    head = ("Arm", *(f"{sign} {threshold:g}" for threshold in chosen))
    caption = f"{structure}: share of patients by {measure.named}, with 95 % band"
    return Table(name, caption, head, tuple(rows))


def repetitions_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Spread between repetitions of a training beside the spread between patients."""
    part = table[(table["structure"] == structure) & (table["metric"] == metric)]
    digits = MEASURES[metric].digits
    rows = [
        row_of(
            f"{r['method']}.{r['fusion']}" if r["fusion"] != "none" else str(r["method"]), str(len(r["seeds"])),
            str(r["patients"]), Cell(", ".join(number(v, digits) for v in r["means"]), wordy=True),
            number(r["sd_of_means"], digits + 1), number(r["sd_patients"], digits), number(r["sd_seeds"], digits),
            number(r["sd_within"], digits),
        )
        for r in part.to_dict("records")
    ]  # fmt: skip
    groups = (("", 3), ("Means of the seeds", 2), ("SD between", 2), ("", 1))
    head = ("Method", "seeds", "patients", "mean of each seed", "SD", "patients", "seeds", "SD left within")
    return Table(name, f"{structure}, {MEASURES[metric].named}: run-to-run spread", head, tuple(rows), groups)


def model_table(model: Model, name: str) -> Table:
    """Fixed effects of a mixed model with their intervals over resamples of patients; dashes where it has none."""
    digits = MEASURES[model.metric].digits
    rows = [
        row_of(
            " ".join([effect.term, *(str(part) for part in (effect.arm, effect.structure) if part)]),
            signed(effect.estimate, digits),
            interval(effect.low, effect.high, digits),
        )
        for effect in model.effects
    ]
    head = ("Effect", "estimate", "95 % CI")
    return Table(name, f"{MEASURES[model.metric].named}: {model.formula}", head, tuple(rows))
