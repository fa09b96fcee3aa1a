"""What the numbers mean and what they do not show: sentences beside tables and figures, and the caveats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import MEASURES
from gtvbench.bench.study.file import StatisticsOptions
from gtvbench.reports.analysis.contrasts import LEVEL, main_scheme
from gtvbench.reports.analysis.models import Model
from gtvbench.reports.analysis.scores import order_changes
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import other_weights
from gtvbench.reports.statistics.paired import smallest_p
from gtvbench.reports.text.numbers import counted, equals, finite, listed, number, percent, signed

#: Wald tests of a mixed model rest on many patients; below so many the page calls them indicative.
MIN_FOR_A_MODEL = 30


def contrast_reading(differences: pd.DataFrame, structure: str) -> str:
    """What the reader of the tables of differences must know: patients, family, and what so few could show."""
    chosen = differences[(differences["structure"] == structure) & differences["planned"].astype(bool)]
    if chosen.empty:
        return "No difference between these arms was planned; all pairs are exploratory."
    n, family = int(chosen["n"].max()), int(chosen["family"].max())
    text = f"{counted(n, 'patient')} with this structure; {counted(family, 'planned difference')} in each metric"
    moved = chosen[chosen["difference"] * chosen["hodges_lehmann"] < 0]
    moved = moved[moved["p"].astype(float) < LEVEL]
    if len(moved):
        pairs = listed([f"{r['one']} − {r['other']}" for r in moved.to_dict("records")])
        text += (
            f". A few patients, such as failed cases with their penalty, move the mean of {pairs} to the other side of "
            "zero than the typical difference (Hodges-Lehmann), which p is about"
        )
    if n == 1:
        return f"{text}. One patient allows no test and no interval."
    least = smallest_p(n)
    if least > LEVEL:
        return f"{text}. So few patients could never reach p < .05, so no p is printed; look at the intervals."
    if least * family > LEVEL:
        return (
            f"{text}. After Holm so few patients cannot reach p < .05 whatever the scores are; look at the intervals."
        )
    return f"{text}."


def margins(options: StatisticsOptions, structures: Sequence[str]) -> str:
    """The margins of practical equivalence that the study file declares."""
    parts = []
    for metric in options.primary_metrics:
        measure = MEASURES[metric]
        values: dict[float, list[str]] = {}
        for structure in structures or ("",):
            values.setdefault(options.margin(metric, structure), []).append(structure)
        unit = f" {measure.unit}" if measure.unit else ""
        each = [f"{v:g}{unit}{f' ({listed(names)})' if len(values) > 1 else ''}" for v, names in values.items()]
        parts.append(f"{listed(each)} in {measure.title}")
    return f"a margin of {listed(parts)}"


def ranking(ranked: Mapping[str, Any]) -> str:
    """How firm a ranking is, in a sentence."""
    chosen = main_scheme(ranked["metric"])
    scheme = ranked["schemes"][chosen]
    first = max(range(len(ranked["arms"])), key=lambda k: scheme["probability"][k][0])
    share = percent(scheme["probability"][first][0])
    name = MEASURES[ranked["metric"]].title
    way = "mean" if chosen == "mean-then-rank" else "median"
    text = f"By {way} {name}, {ranked['arms'][first]} comes first in {share} of the patient resamples"
    tau = scheme["tau_b"]
    text += f"; Kendall's tau-b with the ranking of all patients: median {number(tau[1], 2)}, 5th percentile "
    text += f"{number(tau[0], 2)}."
    pairs = len(ranked["arms"]) * (len(ranked["arms"]) - 1) // 2
    if smallest_p(ranked["patients"]) * pairs > LEVEL:
        text += (
            f" Over all {pairs} pairs no two arms can be told apart after Holm with "
            f"{counted(ranked['patients'], 'patient')}, whatever the scores are; fewer pairs, such as the "
            "planned ones, may."
        )
    omnibus = ranked["friedman"]
    if omnibus is not None:
        text += f" Friedman: chi-square {number(omnibus['chi2'], 2)} on {omnibus['df']} degrees of freedom, p "
        text += f"{equals(omnibus['p'])}, Kendall's W {number(omnibus['kendall_w'], 2)}."
    return text


def caveats(run: FinishedRun, stability: pd.DataFrame) -> list[str]:
    """What the reader must not conclude, of what applies to this run."""
    lines = [
        "A highest mean describes one test set. The leader was chosen by looking at it, so its lead is probably a "
        "little too large; what was planned before is under Differences."
    ]
    scored = run.scored_arms
    prompted = [arm for arm in scored if arm.box_prompted]
    if prompted:
        who = "Every arm" if len(prompted) == len(scored) else f"{len(prompted)} of {counted(len(scored), 'arm')}"
        lines.append(
            f"{who} {'was' if len(prompted) == 1 or who == 'Every arm' else 'were'} given a box around the target in "
            "every slice that shows it, drawn from the reference (oracle localisation). This is no result for finding "
            "the target: in use somebody has to draw the boxes, slice by slice."
        )
        if len(prompted) < len(scored):
            lines.append(
                "Arms without a prompt have to find the target and are penalised for slices and places that the "
                "boxes give away; the scores restricted to prompted slices take part of that away."
            )
    if run.synthetic:
        lines.append("Nothing here carries over to patients: the data are synthetic.")
    if other_weights(scored):
        lines.append("Nothing is said of a published method by an arm that starts from other weights.")
    if any(arm.cut_schedule for arm in scored):
        lines.append(
            "An arm whose training was cut short is not at its best: its rank may change with a full schedule."
        )
    if any(arm.status == "failed" for arm in run.arms):
        lines.append(
            "A failed arm's score counts its missing masks as 0; that is a verdict on the run, not the method."
        )
    changed = [structure for structure in run.structures if order_changes(stability, structure)]
    if changed:
        lines.append(
            f"The order of the arms for {listed(changed)} depends on how empty masks and pooling are treated; see "
            "Sensitivity."
        )
    if run.folds and any(arm.trains for arm in run.scored_arms):
        lines.append(
            "Patients of a fold share a network: intervals and tests take patients as independent, and are somewhat "
            "too sure of differences between arms that train."
        )
    lines.append(
        "One data set, one reference: observers differ, and other scanners or centres may give another order. "
        "The margins stand for what does not matter in practice only as far as they were chosen so."
    )
    return lines


def interaction(model: Model | None) -> str:
    """Whether the differences between arms hang on the size of the target, or on the structure; nothing untested."""
    if model is None:
        return ""
    other, what = ("log volume", "size of the target") if model.by_volume else ("structure", "structure")
    name = MEASURES[model.metric].title
    if not model.converged:
        return f"{name}, interaction of arm and {other}: the mixed model {model.note}."
    test = next((t for t in model.tests if " x " in t.term), None)
    if test is None:
        return ""
    found = f"hang on the {what}" if test.p < LEVEL else f"were not shown to hang on the {what}"
    few = "; with so few patients indicative only" if model.patients < MIN_FOR_A_MODEL else ""
    return (
        f"Differences between arms in {name} {found}: interaction of arm and {other}, Wald chi-square "
        f"{number(test.chi2, 2)} on {test.df} degrees of freedom, p {equals(test.p)} (mixed model, {model.patients} "
        f"patients, not adjusted{few})."
    )


def limits(row: Any, *, ratio: bool) -> str:
    """Limits of agreement in a few characters, for a small panel."""
    names = (
        ("ratio", "ratio_low", "ratio_high") if ratio else ("difference_ml", "difference_low_ml", "difference_high_ml")
    )
    middle, low, high = (float(row[name]) for name in names)
    if not finite(middle):
        return "too few cases for limits"
    if ratio:
        return f"×{number(middle, 2)} (×{number(low, 2)} to ×{number(high, 2)})"
    digits = 1 if max(abs(low), abs(high)) < 100 else 0  # it has to fit above half a figure
    return f"{signed(middle, digits)} ({signed(low, digits)} to {signed(high, digits)})"


def stability_sentence(stability: pd.DataFrame, structure: str) -> str:
    """Whether the order of arms is the same under every convention."""
    words = {"empty_is_one": "empty masks counted as 1", "complete": "complete cases", "aggregated": "aggregated DSC"}
    changed = order_changes(stability, structure)
    if not changed:
        return "The order of the arms is the same under every convention."
    return f"The order of the arms changes with: {listed([words[name] for name in changed])}."
