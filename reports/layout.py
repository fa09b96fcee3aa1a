"""Tables of the page: a frame of numbers in, cells as text and a CSV for download out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gtvbench.reports import published
from gtvbench.reports.contrasts import LEVEL
from gtvbench.reports.cost import STAGES
from gtvbench.reports.load import EPOCH_COLUMNS, Run
from gtvbench.reports.measures import MEASURES
from gtvbench.reports.models import Model
from gtvbench.reports.tables import STATUSES, best_arms
from gtvbench.reports.text import (
    ABSENT,
    duration,
    finite,
    gigabytes,
    interval,
    number,
    p_value,
    percent,
    redact,
    signed,
)


@dataclass(frozen=True)
class Cell:
    """One cell: its text, whether it is marked as the best of its column, and whether it is a name or a sentence."""

    text: str
    strong: bool = False
    wordy: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the page: `groups` are (heading, columns) above `head`; the first cell of a row is its heading."""

    id: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    csv: str | None = None


def _row(*cells: str | Cell) -> tuple[Cell, ...]:
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def arms_table(run: Run) -> Table:
    """What each arm is: status, what it sees, what it was trained on, weights."""
    rows = []
    for arm in run.arms:
        training = "trained here" if arm.trains else "as it is"
        if arm.trains and arm.cut_schedule:
            training += f", cut short ({arm.cut_schedule})"
        weights = str(arm.weights.get("name") or ABSENT)
        rows.append(
            _row(
                arm.name,
                Cell(arm.status if not arm.reason else f"{arm.status}: {redact(arm.reason)}", wordy=True),
                Cell(arm.fusion if arm.fusion != "none" else "no image", wordy=True),
                Cell("box (oracle localisation)" if arm.box_prompted else "none", wordy=True),
                Cell(training, wordy=True),
                Cell(f"{weights} (stand-in)" if arm.stand_in else weights, wordy=True),
            )
        )
    head = ("Arm", "Status", "Images", "Prompt", "Training", "Weights")
    return Table("arms", "The arms: a method with a fusion of images", head, tuple(rows))


def status_table(counts: pd.DataFrame) -> Table:
    """Cases of each status, one row an arm; a status that no arm has for a structure gets no column there."""
    groups, head, columns = [("", 1)], ["Arm"], []
    for structure, part in counts.groupby("structure", sort=False):
        used = [s for s in (*STATUSES, "other") if s == "ok" or int(part[s].sum())]
        groups.append((str(structure), len(used)))
        head += used
        columns += [(structure, status) for status in used]
    indexed = counts.set_index(["arm", "structure"])
    rows = [
        _row(arm, *(str(indexed[status].get((arm, structure), ABSENT)) for structure, status in columns))
        for arm in dict.fromkeys(counts["arm"].astype(str))
    ]
    return Table("status", "Test cases by status, whole volume", tuple(head), tuple(rows), tuple(groups), "status.csv")


def score_table(
    run: Run, summary: pd.DataFrame, structure: str, scope: str, costs: Mapping[str, float | None], name: str
) -> Table:
    """Scores of one structure and scope, one row an arm; `costs` are seconds for one slice."""
    part = summary[(summary["structure"] == structure) & (summary["scope"] == scope)]
    best = {
        column: set(best_arms(part, structure, column, lowest)) if len(part) > 1 else set()
        for column, lowest in (
            ("dsc_mean", False), ("dsc_median", False), ("hd95_median_mm", True), ("nsd_mean", False),
            ("assd_median_mm", True), ("dsc_aggregated", False),
        )
    }  # fmt: skip

    def cell(row: Mapping[str, object], column: str, digits: int) -> Cell:
        return Cell(number(row[column], digits), strong=row["arm"] in best[column])

    rows = []
    for r in ({str(key): value for key, value in record.items()} for record in part.to_dict("records")):
        rows.append(
            _row(
                str(r["arm"]),
                str(r["n"]),
                str(r["failed"]),
                Cell(_mean_sd(r, 3), r["arm"] in best["dsc_mean"]),
                cell(r, "dsc_median", 3),
                between(r["dsc_q1"], r["dsc_q3"], 3),
                number(r["dsc_min"], 3),
                cell(r, "dsc_aggregated", 3),
                cell(r, "hd95_median_mm", 1),
                percent(r["hd95_failure_rate"]),
                cell(r, "nsd_mean", 3),
                cell(r, "assd_median_mm", 2),
                signed(r["volume_difference_mean_ml"], 2),
                duration(costs.get(str(r["arm"]))),
            )
        )
    tolerance = run.tolerance(structure)
    groups = (
        ("", 1), ("Cases", 2), ("DSC", 5), ("HD95", 2), ("NSD", 1),
        ("ASSD", 1), ("Volume difference", 1), ("Time", 1),
    )  # fmt: skip
    head = (
        "Arm", "n", "failed", "mean ± SD", "median", "IQR", "min", "pooled", "median, mm", "failed",
        f"mean, at {tolerance:g} mm" if tolerance is not None else "mean", "median, mm", "mean, mL", "per slice",
    )  # fmt: skip
    where = "whole volume" if scope == "volume" else "prompted slices only"
    return Table(name, f"{structure}, {where}", head, tuple(rows), groups, csv="summary.csv")


def between(low: object, high: object, digits: int) -> str:
    """A range of unsigned numbers; a dash where there is none."""
    return f"{number(low, digits)} to {number(high, digits)}" if finite(low) else ABSENT


def false_positive_table(table: pd.DataFrame) -> Table:
    """False positives where the reference lacks the structure."""
    rows = [
        _row(
            str(r["arm"]), Cell(str(r["structure"]), wordy=True), str(r["cases"]), str(r["false_positive"]),
            str(r["no_mask"]), percent(r["rate"]), number(r["volume_median_ml"], 2), number(r["volume_max_ml"], 2),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = ("Arm", "Structure", "Cases", "false positive", "no mask", "rate", "median, mL", "largest, mL")
    caption = "Cases whose reference lacks the structure"
    return Table("absent", caption, head, tuple(rows), csv="false_positives.csv")


def sensitivity_table(table: pd.DataFrame, structure: str, name: str) -> Table:
    """Mean DSC of one structure under four conventions."""
    part = table[table["structure"] == structure]
    rows = [
        _row(str(r["arm"]), *(number(r[c], 3) for c in ("present", "empty_is_one", "complete", "aggregated")))
        for r in part.to_dict("records")
    ]
    complete = int(part["n_complete"].iloc[0]) if len(part) else 0
    head = ("Arm", "reference present", "empty counts as 1", f"complete cases (n = {complete})", "aggregated")
    return Table(name, f"{structure}: mean DSC by convention", head, tuple(rows), csv="sensitivity.csv")


def values_table(values: pd.DataFrame, caption: str, digits: int, name: str) -> Table:
    """The numbers behind a violin panel: a row a case, a column an arm."""
    rows = [
        _row(str(case), *(number(value, digits) for value in record))
        for case, record in zip(values.index, values.to_numpy(float).tolist(), strict=True)
    ]
    return Table(name, caption, ("Case", *map(str, values.columns)), tuple(rows), csv="scores.csv")


def against_margin(record: Mapping[Any, Any]) -> str:
    """What the margin of the study file says of a difference, at .05."""
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
        cells: list[str | Cell] = [
            Cell(f"{r['one']} \u2212 {r['other']}", wordy=True), str(r["n"]), signed(r["difference"], digits),
            interval(r["low"], r["high"], digits), signed(r["hodges_lehmann"], digits), signed(r["rank_biserial"], 2),
            percent(r["superiority"]), number(r["detectable"], digits), number(r["needed"], 0), against_margin(r),
            p_value(r["p"]),
        ]  # fmt: skip
        rows.append(_row(*cells, p_value(r["p_holm"])) if planned else _row(*cells))
    head = (
        "Difference", "n", "mean", "95 % CI", "Hodges-Lehmann", "rank-biserial", "P(first higher)", "detectable",
        "n for the margin", "margin", "p", *(["p, Holm"] if planned else []),
    )  # fmt: skip
    kind = "planned" if planned else "exploratory"
    return Table(name, f"{structure}, {measure.named}: {kind} differences", head, tuple(rows), csv="contrasts.csv")


#: Ways to rank, as their columns are headed.
SCHEME_NAMES = {
    "mean-then-rank": "mean",
    "median-then-rank": "median",
    "rank-then-mean": "mean rank",
    "test-then-rank": "tests won",
}


def ranking_table(ranked: Mapping[str, Any], name: str) -> Table:
    """How often each arm has each rank when other patients are drawn, and its rank under every scheme."""
    schemes = ranked["schemes"]
    main = schemes["mean-then-rank"]
    order = sorted(range(len(ranked["arms"])), key=lambda k: (main["ranks"][k], ranked["arms"][k]))
    rows = [
        _row(
            ranked["arms"][k],
            *(f"{schemes[s]['ranks'][k]:g}" for s in schemes),
            *(percent(schemes[s]["probability"][k][0]) for s in schemes),
            *(percent(share) if share else ABSENT for share in main["probability"][k]),
        )
        for k in order
    ]
    count = len(ranked["arms"])
    groups = (
        ("", 1), ("Rank by", len(schemes)), ("First in resamples, by", len(schemes)),
        ("Share of resamples at rank, by mean", count),
    )  # fmt: skip
    caption = f"{ranked['structure']}, {MEASURES[ranked['metric']].title}: ranking of the arms"
    names = [SCHEME_NAMES[s] for s in schemes]
    head = ("Arm", *names, *names, *(str(place + 1) for place in range(count)))
    return Table(name, caption, head, tuple(rows), groups)


def tau_table(ranked: Mapping[str, Any], name: str) -> Table:
    """Kendall's tau-b between the ranking of all patients and those of the resamples, for every scheme."""
    rows = [
        _row(SCHEME_NAMES[scheme], *(number(value, 2) for value in held["tau_b"]))
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
        rows.append(_row(*cells))
    groups = (("", 1), ("DSC", 5), ("HD95, mm", 2), ("NSD", 2), ("ASSD, mm", 2))
    head = (
        "Arm", "n", "mean", "95 % CI", "5th percentile", "min", "median", "95 % CI", "mean", "95 % CI", "median",
        "95 % CI",
    )  # fmt: skip
    caption = f"{structure}: 95 % confidence intervals over patients"
    return Table(name, caption, head, tuple(rows), groups, "intervals.csv")


def subgroup_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Mean score of each arm in each third of the patients by reference volume, with its interval."""
    part = table[(table["structure"] == structure) & (table["metric"] == metric)]
    digits = MEASURES[metric].digits
    thirds = part.drop_duplicates("third")
    cells = {
        (r["arm"], r["third"]): (number(r["mean"], digits), between(r["low"], r["high"], digits))
        for r in part.to_dict("records")
    }
    names = [str(third) for third in thirds["third"]]
    rows = [
        _row(str(arm), *(text for third in names for text in cells.get((arm, third), (ABSENT, ABSENT))))
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
        _row(
            str(r["arm"]), str(r["n"]), str(r["empty"]), signed(r["difference_ml"], 2),
            interval(r["difference_low_ml"], r["difference_high_ml"], 2), number(r["ratio"], 2),
            between(r["ratio_low"], r["ratio_high"], 2), number(r["icc"], 3), between(r["icc_low"], r["icc_high"], 3),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    groups = (("", 1), ("Patients", 2), ("Difference, mL", 2), ("Ratio", 2), ("ICC(A,1)", 2))
    head = ("Arm", "n", "no mask", "mean", "95 % limits", "mean", "95 % limits", "estimate", "95 % CI")
    return Table(name, f"{structure}: predicted against reference volume", head, tuple(rows), groups, "agreement.csv")


def profile_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Share of patients that reach a few thresholds, with the pointwise interval."""
    measure = MEASURES[metric]
    every = sorted(set(table["threshold"]))
    chosen = every[50::10] if measure.bounded else every[::20]
    wide = table.set_index(["arm", "threshold"])
    rows = []
    for arm in dict.fromkeys(table["arm"]):
        cells = []
        for threshold in chosen:
            r = wide.loc[(arm, threshold)]
            cells.append(f"{percent(r['share'])} ({percent(r['low'])} to {percent(r['high'])})")
        rows.append(_row(str(arm), *cells))
    sign = "≥" if measure.higher_is_better else "≤"
    head = ("Arm", *(f"{sign} {threshold:g}" for threshold in chosen))
    caption = f"{structure}: share of patients by {measure.named}, with 95 % band"
    return Table(name, caption, head, tuple(rows), csv="profiles.csv")


def repetitions_table(table: pd.DataFrame, structure: str, metric: str, name: str) -> Table:
    """Spread between repetitions of a training beside the spread between patients."""
    part = table[(table["structure"] == structure) & (table["metric"] == metric)]
    digits = MEASURES[metric].digits
    rows = [
        _row(
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
    """Fixed effects of a mixed model."""
    digits = MEASURES[model.metric].digits
    rows = [
        _row(
            " ".join([effect.term, *(str(part) for part in (effect.arm, effect.structure) if part)]),
            signed(effect.estimate, digits), interval(effect.low, effect.high, digits), p_value(effect.p),
        )
        for effect in model.effects
    ]  # fmt: skip
    head = ("Effect", "estimate", "95 % CI", "p (Wald)")
    return Table(name, f"{MEASURES[model.metric].named}: {model.formula}", head, tuple(rows))


def epochs_table(table: pd.DataFrame) -> Table:
    """Times of training."""
    rows = [
        _row(
            str(r["arm"]), duration(r["preparation_s"]), str(r["epochs"]), duration(r["first_epoch_s"]),
            duration(r["median_s"]), duration(r["epochs_total_s"]),
            ABSENT if not finite(r["best_epoch"]) else f"{r['best_epoch']:.0f}",
            number(r["lowest_validation_loss"], 4), Cell(str(r["schedule"]), wordy=True),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = (
        "Arm", "Preparation", "Epochs", "Epoch 0", "Later epochs, median", "All epochs", "Kept epoch", "Lowest loss",
        "Schedule",
    )  # fmt: skip
    return Table("epochs", "Training time; the loss is the validation loss", head, tuple(rows), csv="epochs.csv")


def stages_table(table: pd.DataFrame) -> Table:
    """Times of prediction, every stage."""
    rows = [
        _row(
            str(r["arm"]), Cell(STAGES[r["stage"]], wordy=True), str(r["n"]), duration(r["median_s"]),
            f"{duration(r['q1_s'])} to {duration(r['q3_s'])}", duration(r["p95_s"]),
        )
        for r in table.to_dict("records")
    ]  # fmt: skip
    head = ("Arm", "Stage", "n", "median", "IQR", "95th percentile")
    return Table("stages", "Every stage", head, tuple(rows), csv="timing.csv")


def prediction_table(table: pd.DataFrame) -> Table:
    """Times of prediction, one row an arm: median and 95th percentile of each stage."""
    used = [stage for stage in STAGES if (table["stage"] == stage).any()]
    indexed = table.set_index(["arm", "stage"])
    rows = []
    for arm in dict.fromkeys(table["arm"].astype(str)):
        cells = [arm]
        for stage in used:
            known = (arm, stage) in indexed.index
            cells += [duration(indexed.loc[(arm, stage), c]) if known else ABSENT for c in ("median_s", "p95_s")]
        rows.append(_row(*cells))
    groups = (("", 1), *((STAGES[stage], 2) for stage in used))
    head = ("Arm", *["median", "95th percentile"] * len(used))
    return Table("prediction", "Prediction time, one slice at a time", head, tuple(rows), groups, csv="timing.csv")


def resources_table(table: pd.DataFrame) -> Table:
    """Loading, warm-up, throughput and memory."""
    rows = []
    for r in table.to_dict("records"):
        batch = f" ({r['batch_slices']:.0f} a batch)" if finite(r["batch_slices"]) else ""
        rows.append(
            _row(
                str(r["arm"]), Cell(str(r["device"] or ABSENT), wordy=True), duration(r["load_s"]),
                f"{r['warmup_calls']}", duration(r["first_call_s"]), f"{_rate(r['slices_per_s'])}{batch}",
                _rate(r["boxes_per_s"]), gigabytes(r["peak_host_bytes"]), gigabytes(r["peak_device_bytes"]),
            )
        )  # fmt: skip
    head = (
        "Arm", "Device", "Loading", "Warm-up calls", "First call", "Slices a second", "Boxes a second", "Peak memory",
        "Peak on device",
    )  # fmt: skip
    return Table("resources", "Loading, warm-up, batches and memory", head, tuple(rows), csv="resources.csv")


def _rate(value: object) -> str:
    return number(value, 1 if finite(value) and float(str(value)) < 100 else 0)


def training_table(table: pd.DataFrame, arm: str, name: str) -> Table:
    """The numbers behind the training curves, and what else the method recorded (nnU-Net's pseudo-Dice)."""
    more = [str(column) for column in table.columns if column not in EPOCH_COLUMNS]
    rows = [
        _row(
            str(int(r["epoch"])), number(r["train_loss"], 4), number(r["validation_loss"], 4),
            *[number(r[column], 4) for column in more], duration(r["seconds"]),
        )
        for r in table.sort_values("epoch").to_dict("records")
    ]  # fmt: skip
    head = (
        "Epoch",
        "training loss",
        "validation loss",
        *[c.replace("pseudo_dice", "pseudo-Dice") for c in more],
        "time",
    )
    return Table(name, f"{arm}: every epoch", head, tuple(rows), csv="training.csv")


def published_table(run: Run, summary: pd.DataFrame) -> Table:
    """The study's mean DSC beside ours; arms that only one side has keep their row."""
    records = summary[summary["scope"] == "volume"].to_dict("records")
    volume = {(str(r["arm"]), str(r["structure"])): r for r in records}
    head = ["Arm"]
    groups = [("", 1)]
    for structure in run.structures:
        groups.append((structure, 2))
        head += ["published", "here"]
    rows = []
    for (method, fusion), results in published.RESULTS.items():
        ours = [a.name for a in run.scored_arms if a.kind == method and fusion in (None, a.fusion)]
        for name in ours or [method + (f".{fusion}" if fusion else "")]:
            cells = [name]
            for structure in run.structures:
                mean, spread = results[structure]
                cells.append(f"{mean:.2f} ± {spread:.2f}")
                row = volume.get((name, structure)) if ours else None
                cells.append(f"{_mean_sd(row, 2)} (n = {row['n']})" if row is not None else ABSENT)
            rows.append(_row(*cells))
    return Table("published", "Mean DSC ± SD", tuple(head), tuple(rows), tuple(groups))


def _mean_sd(row: Mapping[Any, Any], digits: int) -> str:
    spread = f" ± {number(row['dsc_sd'], digits)}" if finite(row["dsc_sd"]) else ""
    return number(row["dsc_mean"], digits) + spread
