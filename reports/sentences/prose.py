"""The page's sentences: banners, caveats, and what the numbers mean.

What was found stands in `verdict`; here stands what it does not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import WHOLE_VOLUME
from gtvbench.bench.study.file import StatisticsOptions
from gtvbench.reports.analysis.contrasts import LEVEL
from gtvbench.reports.analysis.measures import MEASURES, main_scheme
from gtvbench.reports.analysis.models import Model
from gtvbench.reports.analysis.scores import order_changes
from gtvbench.reports.run.load import Arm, Run
from gtvbench.reports.sentences.citations import SETS, left_out_words, other_weights, weights_file
from gtvbench.reports.statistics.paired import smallest_p
from gtvbench.reports.text.numbers import counted, equals, finite, listed, number, percent, signed

#: Two-sided exact signed-rank test: the smallest p is 2 / 2^n, which is below .05 from six pairs on.
MIN_FOR_A_TEST = 6

#: Wald tests of a mixed model rest on many patients; below so many the page calls them indicative.
MIN_FOR_A_MODEL = 30


@dataclass(frozen=True)
class Banner:
    """Something that the reader must know before any number: `kind` names it, `text` says it, `names` lists arms."""

    kind: str
    label: str
    text: str
    names: tuple[str, ...] = ()


def banners(run: Run, wide: pd.DataFrame, summary: pd.DataFrame) -> list[Banner]:
    """Every reason to read the results with care, the gravest first."""
    found = []
    if run.synthetic:
        found.append(
            Banner(
                "synthetic",
                "Synthetic data",
                "The patients were made by a procedure. The numbers show that the harness works; they say nothing "
                "about real patients.",
            )
        )
    found += [Banner(n.kind, n.label, n.text, n.names) for n in run.notices]
    found += _left_out(run)
    margin = run.crop_margin_mm
    if margin is not None:
        found.append(
            Banner(
                "cropped",
                "Cropped around the target",
                f"Every image, of the test set too, ends {margin[0]:g} to {margin[1]:g} mm beyond the reference. An "
                "arm without a prompt therefore knows roughly where the target is; false positives far away cannot "
                "occur, and distances are bounded by the crop.",
            )
        )
    found += _about_arms(run)
    found += _incomplete(run)
    found += _too_few(run, wide)
    unscored = int(summary["unscored"].sum())
    if unscored:
        found.append(
            Banner(
                "unscored",
                "Scores missing",
                f"{counted(unscored, 'score')} that should exist (whole volume and prompted slices) "
                f"{'is' if unscored == 1 else 'are'} not a number and left out of the means.",
            )
        )
    return found


def _left_out(run: Run) -> list[Banner]:
    lost = left_out_words(run)
    if not lost:
        return []
    subsets = {case: SETS[subset] for subset, cases in run.left_out.items() for case in cases}
    reasons = {str(f.get("case")): str(f.get("message") or "") for f in run.failures if f.get("step") == "prepare"}
    told = [(f"{case} ({words})", reasons.get(case)) for case, words in subsets.items()]
    text = (
        f"Of {counted(len(subsets) + sum(map(len, run.subsets.values())), 'patient')} found, {lost} could not be read "
        "and took no part, in any arm. The scores say nothing about them: if what made them unreadable has to do with "
        "the patient, the others are a selection."
    )
    return [Banner("left-out", "Patients left out", text, _by_reason(told))]


def _about_weights(active: Sequence[Arm]) -> list[Banner]:
    found = []
    other = _by_reason([(arm.name, weights_file(arm)) for arm in other_weights(active)])
    if other:
        text = (
            "The weights of these arms are not the published ones, or were not verified to be. Scores are not those of "
            "the published method."
        )
        found.append(Banner("other-weights", "Other weights", text, other))
    published = _by_reason([(arm.name, weights_file(arm)) for arm in active if arm.published_weights])
    if published:
        text = "These arms start from weights as they were published, by the digest of the file."
        found.append(Banner("weights", "Published weights, verified", text, published))
    return found


def _about_arms(run: Run) -> list[Banner]:
    found = []
    active = [arm for arm in run.arms if arm.status != "skipped"]
    found += _about_weights(active)
    cut = _by_reason([(arm.name, arm.cut_schedule) for arm in active if arm.cut_schedule])
    if cut:
        text = "These arms were trained for less than their protocol asks for. They could do better."
        found.append(Banner("cut", "Training cut short", text, cut))
    failed = _by_reason([(arm.name, arm.reason) for arm in active if arm.status == "failed"])
    if failed:
        text = "Something went wrong in these arms. Cases without a mask count as DSC 0; see Failures."
        found.append(Banner("failed", "Failed arms", text, failed))
    skipped = _by_reason([(arm.name, arm.reason) for arm in run.arms if arm.status == "skipped"])
    if skipped:
        found.append(Banner("skipped", "Skipped arms", "These arms did not run.", skipped))
    return found


def _by_reason(pairs: list[tuple[str, str | None]]) -> tuple[str, ...]:
    """'names: reason' lines, the arms that share a reason together."""
    grouped: dict[str, list[str]] = {}
    for name, reason in pairs:
        grouped.setdefault(reason or "no reason recorded", []).append(name)
    return tuple(f"{listed(names)}: {reason}" for reason, names in grouped.items())


def _incomplete(run: Run) -> list[Banner]:
    waiting = [arm.name for arm in run.arms if arm.status != "skipped" and arm.name not in set(run.scores["arm"])]
    unscored = sorted(set(run.subsets["test"]) - set(run.scores["patient"]))
    uneven = run.scores.groupby("arm")["case"].nunique()
    short = [str(arm) for arm, count in uneven.items() if count < uneven.max()]
    if not waiting and not (unscored and len(run.scores)) and not short:
        return []
    parts = []
    if unscored and len(run.scores):
        parts.append(f"{counted(len(unscored), 'test patient')} without any score")
    if short:
        parts.append(f"arms that lack cases which others have: {listed(short)}")
    if waiting:
        parts.append("arms without any score, listed here")
    text = f"The score table is not whole ({'; '.join(parts)}): the run is under way or was interrupted."
    return [Banner("incomplete", "Run not finished", text, tuple(waiting))]


def _too_few(run: Run, wide: pd.DataFrame) -> list[Banner]:
    present = wide[wide["present"] & (wide["scope"] == WHOLE_VOLUME)]
    patients = {s: present.loc[present["structure"] == s, "patient"].nunique() for s in run.structures}
    counts = {s: n for s, n in patients.items() if n < MIN_FOR_A_TEST}
    if not counts:
        return []
    each = listed([f"{counted(n, 'patient')} with {structure}" for structure, n in counts.items()])
    text = (
        f"The test set has {each}. Below {MIN_FOR_A_TEST} pairs a signed-rank test cannot reach p < .05 whatever the "
        "scores are, and SDs and quartiles are rough."
    )
    if max(counts.values()) == 1 and len(counts) == len(patients):
        text = f"The test set has {each}. One patient has no spread, no interval and no test: the scores are its alone."
    return [Banner("few", "Few patients", text)]


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


def caveats(run: Run, stability: pd.DataFrame) -> list[str]:
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
