"""Sentences of the methods text on metrics, statistics, time, software, and what the reader must not conclude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import MEASURES, PROMPTED_SLICES, WHOLE_VOLUME
from gtvbench.bench.study.file import StatisticsOptions
from gtvbench.reports.analysis.contrasts import LEVEL, by_patient, planned_pairs, statistics_of
from gtvbench.reports.analysis.scores import of_scope
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import (
    LITEMEDSAM,
    NNUNET,
    active,
    cite,
    left_out_words,
    mapping,
    named,
    names,
    of_kinds,
    other_weights,
)
from gtvbench.reports.statistics.paired import EXACT_RANKS, smallest_p
from gtvbench.reports.statistics.ranking import SCHEMES
from gtvbench.reports.text.numbers import counted, finite, listed

_SCHEME_WORDS = {
    "mean-then-rank": "mean",
    "median-then-rank": "median",
    "rank-then-mean": "mean rank",
    "test-then-rank": "number of arms beaten significantly",
}

#: More contrasts than these are counted instead of listed.
_LISTED = 9


def metrics(run: FinishedRun) -> list[str]:
    """What was measured and how, and what an empty mask counts as."""
    scoring = mapping(run.provenance.get("scoring"))
    tool = f"{named(scoring['tool'])} {named(scoring.get('version') or '')}".strip() if scoring.get("tool") else ""
    percentile = scoring.get("percentile")
    percentile = percentile if finite(percentile) else 95
    said = [
        "Masks were scored as whole volumes, in mm, against the whole reference: an overlap and a boundary metric, as "
        f"Metrics Reloaded recommends{cite('maierhein2024')}. DSC is the Dice similarity coefficient. HD95 is the "
        f"{percentile:g}th percentile of surface distances weighted by surface area, the larger of the two directions, "
        "with surfaces on the half-voxel grid and no interpolation. NSD, the normalised surface distance, is the share "
        f"of both surfaces within a tolerance{_tolerances(run, scoring)}. ASSD is the mean of the two directed, "
        "area-weighted average distances."
    ]
    if tool:
        said.append(f"Surface metrics are those of {tool}{cite('nikolov2021')}.")
    said.append(
        "Where the reference has a structure and its mask is empty, missing or unusable, DSC and NSD are 0, HD95 and "
        "ASSD the diagonal of the grid, and the case stays in every mean. Where the reference lacks the structure, "
        "these metrics do not exist, and false positives are counted instead. DSC is summarised by mean, SD, median "
        "and quartiles, HD95 by its median with the share of such failures, because one penalty moves a mean."
    )
    if (run.scores["scope"] == PROMPTED_SLICES).any():
        said.append("Scores of the slices with a prompt alone are secondary.")
    return said


def _tolerances(run: FinishedRun, scoring: Mapping[str, Any]) -> str:
    recorded = mapping(scoring.get("tolerance_mm"))
    found = {s: recorded.get(s, run.tolerance(s)) for s in run.structures}
    values = {s: f"{float(v):g} mm" for s, v in found.items() if isinstance(v, int | float)}
    if not values:
        return ""
    if len(set(values.values())) == 1:
        return f" of {next(iter(values.values()))}"
    return " of " + listed([f"{value} ({named(structure)})" for structure, value in values.items()])


def statistics(run: FinishedRun, wide: pd.DataFrame) -> list[str]:
    """How arms were compared, of what there was to compare."""
    arms = run.scored_arms
    counts = {s: len(by_patient(wide, s, "dsc")) for s in run.structures} if len(run.scores) else {}
    most = max(counts.values(), default=0)
    if len(arms) < 2 or most == 0:
        return ["One arm was scored; it is described, not compared."] if len(arms) == 1 else []
    options = statistics_of(run)
    said = ["Comparisons are paired by patient; several cases of a patient are averaged first."]
    pairs = planned_pairs(run)
    said += _families(options, pairs, bool(run.sources)) + _tests(most, len(pairs)) + _effects(options, most)
    said += _margins(run, options, most)
    said += _rankings(len(arms), most) + _volumes(most)
    return [*said, f"Statistics were computed with SciPy{cite('virtanen2020')} and statsmodels{cite('seabold2010')}."]


def _families(options: StatisticsOptions, pairs: list[tuple[str, str]], merged: bool) -> list[str]:
    titles = listed([MEASURES[m].title for m in options.primary_metrics])
    said = [
        f"Primary metrics are {titles}." if len(options.primary_metrics) > 1 else f"The primary metric is {titles}."
    ]
    if not pairs:
        return [*said, "No contrast of these arms was planned: every comparison is exploratory."]
    chosen = "by the study's defaults" if options.contrasts is None else "in the study file"
    if merged:
        chosen = "for the merged runs, pair by pair within a run where it could be"
    shown = "; ".join(f"{named(one)} against {named(other)}" for one, other in pairs)
    which = f": {shown}" if len(pairs) <= _LISTED else ""
    return [
        *said,
        f"{counted(len(pairs), 'contrast')} {'was' if len(pairs) == 1 else 'were'} planned {chosen}{which}. A family "
        "is the planned contrasts of one structure and metric; every other pair is exploratory and not adjusted.",
    ]


def _tests(most: int, family: int) -> list[str]:
    if smallest_p(most) > LEVEL:
        return [
            f"With {counted(most, 'patient')} no signed-rank test can reach p < {LEVEL:g}, so no p value is given; "
            "differences and their intervals are descriptive."
        ]
    # A family that is too large for so few patients: the tests are made, and none can hold.
    small = ""
    if smallest_p(most) * family > LEVEL:
        small = f" In a family of {family}, {counted(most, 'patient')} cannot reach it, whatever the scores are."
    how = "exact given the ties"
    if most > EXACT_RANKS:
        how += f" up to {EXACT_RANKS} differences and by the normal approximation with tie correction beyond"
    return [
        f"p values are of Wilcoxon's signed-rank test{cite('wilcoxon1945')}, two-sided, {how}, differences of zero "
        f"left out, adjusted within a family after Holm{cite('holm1979')}; the level is {LEVEL:g}.{small}"
    ]


def _effects(options: StatisticsOptions, most: int) -> list[str]:
    if most < 3:
        return ["Below three patients no interval exists."]
    return [
        f"Intervals of mean differences are BCa bootstrap intervals{cite('efron1987')} at 95 % from "
        f"{options.resamples:,} resamples of patients, or percentile intervals where ties leave those undefined. "
        f"Beside them stand the Hodges-Lehmann estimate{cite('hodges1963')}, the matched rank-biserial correlation, "
        "the share of patients on whom an arm is better, and the smallest difference that so many patients would show "
        "with 80 % power."
    ]


def _margins(run: FinishedRun, options: StatisticsOptions, most: int) -> list[str]:
    if most < 2:
        return []
    parts = []
    for metric in options.primary_metrics:
        unit = " mm" if metric.endswith("_mm") else ""
        each = {s: options.margin(metric, s) for s in run.structures}
        if len(set(each.values())) == 1:
            parts.append(f"{next(iter(each.values())):g}{unit} in {MEASURES[metric].title}")
        else:
            parts += [f"{v:g}{unit} in {MEASURES[metric].title} of {named(s)}" for s, v in each.items()]
    return [
        f"Equivalence and non-inferiority are two one-sided tests{cite('schuirmann1987')} against a margin of "
        f"{listed(parts)}, set in the study file."
    ]


def _rankings(arms: int, most: int) -> list[str]:
    if most < 2:
        return []
    schemes = listed([_SCHEME_WORDS[scheme] for scheme in SCHEMES])
    said = [
        f"Rankings by {schemes} are given with how often each arm has a rank when patients are resampled"
        f"{cite('wiesenfarth2021')}."
    ]
    if arms > 2:
        said.append(
            f"The omnibus test is Friedman's{cite('friedman1937', 'demsar2006')}; arms that do not differ are grouped "
            f"by signed-rank tests with Holm's adjustment over all pairs, not by mean ranks{cite('benavoli2016')}."
        )
    return said


def _volumes(most: int) -> list[str]:
    if most < 3:
        return []
    return [
        f"Predicted and reference volumes are compared by limits of agreement{cite('bland1986')} and the intraclass "
        f"correlation ICC(A,1){cite('mcgraw1996')}. Where it can be fitted, a linear model with a random intercept for "
        "each patient tests whether differences between arms depend on structure and reference volume."
    ]


def time(run: FinishedRun) -> list[str]:
    """What was timed on which device."""
    timed = [arm for arm in active(run) if arm.name in run.timing]
    said = []
    if timed:
        devices = listed(list(dict.fromkeys(_device(arm.device) for arm in timed if arm.device)))
        where = f" on {devices}" if devices else ""
        stages = {str(stage) for arm in timed for stage in run.timing[arm.name]["stage"].unique()}
        warm = "; warm-up calls are kept apart" if "warmup" in stages else ""
        said.append(
            f"Prediction was timed{where} at batch size 1, by the wall clock, with the device synchronised before and "
            f"after every stage{warm}."
        )
        if run.provenance.get("side_by_side"):
            said.append("Arms could run side by side, and share a machine.")
        if {"encode", "decode"} <= stages:
            said.append("Methods that work slice by slice were timed for encoder and decoder apart.")
    if run.epochs:
        said.append("Training was timed by epoch, the first one, which also pays for caches, apart.")
    return said


def _device(name: str) -> str:
    return "the CPU" if name == "cpu" else f"a GPU ({named(name)})"


#: Packages of provenance.json -> name in a paper, works to cite, and the methods that use them (none: all).
_PACKAGES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "torch": ("PyTorch", ("paszke2019",), (*LITEMEDSAM, *NNUNET)),
    "timm": ("timm", (), LITEMEDSAM),
    "segment-anything": ("segment-anything", (), LITEMEDSAM),
    "nnunetv2": ("nnunetv2", (), NNUNET),
    "SimpleITK": ("SimpleITK", ("lowekamp2013",), ()),
    "surface-distance": ("surface-distance", (), ()),
    "scipy": ("SciPy", ("virtanen2020",), ()),
    "numpy": ("NumPy", (), ()),
}


def software(run: FinishedRun) -> list[str]:
    """Versions of what the methods that ran used, and the machine."""
    provenance = run.provenance
    found = []
    if provenance.get("gtvbench"):
        commit = f" (commit {named(provenance['git'])[:12]})" if provenance.get("git") else ""
        found.append(f"gtvbench {named(provenance['gtvbench'])}{commit}")
    if provenance.get("python"):
        found.append(f"Python {named(provenance['python'])}")
    versions = mapping(provenance.get("packages"))
    for package, (title, works, users) in _PACKAGES.items():
        if package in versions and (not users or of_kinds(run, users)):
            found.append(f"{title} {named(versions[package])}" + (cite(*works) if works else ""))
    said = [f"The run used {listed(found)}."] if found else []
    return said + _hardware(mapping(provenance.get("hardware")), provenance.get("platform"))


def _hardware(hardware: Mapping[str, Any], platform: object) -> list[str]:
    if not hardware.get("cpu"):
        return []
    size = [f"{named(hardware['cores'])} cores"] if hardware.get("cores") else []
    size += [f"{named(hardware['memory_gb'])} GiB of memory"] if hardware.get("memory_gb") else []
    graphics = named(hardware["gpu"]) if hardware.get("gpu") else "no GPU"
    system = f", {named(platform)}" if platform else ""
    return [f"The machine: {named(hardware['cpu'])}" + "".join(f", {part}" for part in size) + f", {graphics}{system}."]


def limitations(run: FinishedRun, wide: pd.DataFrame) -> list[str]:
    """What the reader must be told, the gravest first."""
    started = active(run)
    said = []
    if run.synthetic:
        said.append("The patients are synthetic: no result says anything of real patients.")
    said += _oracle(run)
    if run.crop_margin_mm is not None:
        said.append(
            "Images, those of the test set too, were cropped around the reference: the field of view gives the target "
            "roughly away, and false positives far from it cannot occur."
        )
    other = other_weights(started)
    if other:
        said.append(
            f"The weights of {names(other)} are not the published ones, or were not verified to be; scores are not "
            "those of the published method."
        )
    cut = [arm for arm in started if arm.cut_schedule]
    if cut:
        each = listed([f"{named(arm.name)} ({named(arm.cut_schedule)})" for arm in cut])
        said.append(f"Training was shorter than the protocol: {each}; these arms could do better.")
    said += _failures(run, wide)
    if any(arm.trains for arm in started) and len({arm.seed for arm in started if arm.trains}) == 1:
        once = "once in each fold" if run.folds else "once"
        said.append(f"Each arm was trained {once}: how much a result depends on the seed is not known.")
    if run.folds and any(arm.trains for arm in started):
        common = f", and two of them up to {run.in_common:.0%} of their training patients" if run.in_common else ""
        said.append(
            f"Patients of a fold share a network{common}: scores of arms that train are not quite independent, and "
            "intervals and tests take them as if they were. There is no second cohort."
        )
    else:
        said.append(f"There is {'' if run.folds else 'one split of the patients, and '}no second cohort.")
    return said


def _oracle(run: FinishedRun) -> list[str]:
    prompted = [arm for arm in run.scored_arms if arm.box_prompted]
    free = [arm for arm in run.scored_arms if not arm.box_prompted]
    if not prompted:
        return []
    said = [
        "Boxes were drawn from the reference in every slice that shows a target (oracle localisation): arms that got "
        "them knew where it is, and in use somebody has to draw them."
    ]
    if free:
        said.append(
            f"Without a prompt, {names(free)} had to find the target and pay for slices and places that the boxes give "
            "away; the comparison with prompted arms is not like for like."
        )
    return said


def _failures(run: FinishedRun, wide: pd.DataFrame) -> list[str]:
    said = []
    lost = left_out_words(run)
    if lost:
        said.append(f"Patients who could not be read took no part, {lost}: the others may be a selection.")
    failed = [arm for arm in run.arms if arm.status == "failed"]
    if failed:
        said.append(f"Steps of {names(failed)} failed.")
    counts = of_scope(wide, WHOLE_VOLUME).groupby("arm", sort=False)["failed"].sum()
    empty = [f"{named(arm)} ({int(counts[arm])})" for arm in run.arm_names if counts.get(arm)]
    if empty:
        said.append(f"Structures without a usable mask, which count with their penalty: {listed(empty)}.")
    scored = {arm.name for arm in run.scored_arms}
    silent = [arm for arm in run.arms if arm.status != "skipped" and arm.name not in scored]
    if silent:
        said.append(f"No score exists of {names(silent)}.")
    skipped = [arm for arm in run.arms if arm.status == "skipped"]
    if skipped:
        said.append(f"Planned but not run: {names(skipped)}.")
    return said
