"""The content of the page, section after section, from a run's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from gtvbench.bench.core.scores import MEASURES, PROMPTED_SLICES, WHOLE_VOLUME
from gtvbench.reports.analysis import cost
from gtvbench.reports.analysis.analysis import Results, analyse, as_json
from gtvbench.reports.analysis.scores import presence, score_summary, wide_scores
from gtvbench.reports.methods.text import methods_text
from gtvbench.reports.page import flow
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.page.sections.differences import differences
from gtvbench.reports.page.sections.distributions import distributions
from gtvbench.reports.page.sections.profiles import profiles
from gtvbench.reports.page.sections.ranking import ranking
from gtvbench.reports.page.sections.registration import registrations
from gtvbench.reports.page.sections.time import time_figures
from gtvbench.reports.page.sections.training import training
from gtvbench.reports.page.sections.volumes import agreement, volumes
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences import banners, caveats, verdict
from gtvbench.reports.sentences.citations import left_out_words
from gtvbench.reports.tables import comparisons, published
from gtvbench.reports.tables.cost import epochs_table, prediction_table, resources_table, stages_table
from gtvbench.reports.tables.scores import arms_table, false_positive_table, published_table, score_table
from gtvbench.reports.tables.table import Table
from gtvbench.reports.text.numbers import listed


def content(run: FinishedRun, collected: Collected) -> dict[str, Any]:
    """Context of the page's template; its figures and the tables of numbers behind it go into the collected."""
    wide = wide_scores(run.scores)
    arms = [arm.name for arm in run.scored_arms]
    scopes = (WHOLE_VOLUME, PROMPTED_SLICES)
    summary = pd.concat([score_summary(wide, scope, arms, run.structures) for scope in scopes])
    results = analyse(run, wide)
    volume = _with_intervals(summary[summary["scope"] == WHOLE_VOLUME], results)
    stability, contrasts, ranked = results.sensitivity, results.contrasts, results.rankings
    metrics = results.options.primary_metrics
    collected.frame("status", results.status)
    absent = collected.frame("false_positives", results.false_positives)
    stages = collected.frame("timing", cost.stage_summary(run))
    costs = cost.seconds_per_case(stages)
    for name, frame in {
        "scores": run.scores, "summary": summary, "sensitivity": stability, "contrasts": contrasts,
        "training": _all_epochs(run), "failures": _failures(run), "intervals": results.summary,
        "agreement": results.agreement, "subgroups": results.subgroups, "profiles": results.profiles,
        "volumes": results.volumes, "trends": results.trends, "rankings": _rankings_frame(ranked),
    }.items():  # fmt: skip
        collected.frame(name, frame)
    return {
        "run": run,
        "statistics": as_json(results),
        "methods": methods_text(run),
        "banners": banners.banners(run, wide, summary),
        "verdicts": verdict.verdicts(run, wide, volume, contrasts, ranked, costs),
        "caveats": caveats.caveats(run, stability),
        "flow": _flow(run, wide, collected),
        "registrations": registrations(run, collected),
        "presence": presence(wide, run.structures),
        "prompts": _prompt_counts(run),
        "arms": arms_table(run),
        "scores": [_score_section(run, summary, costs, results, s, k) for k, s in enumerate(run.structures)],
        "violins": distributions(run, wide, metrics, collected),
        "differences": differences(results, collected),
        "resamples": results.options.resamples,
        "margins": caveats.margins(results.options, run.structures),
        "ranking": ranking(ranked, run.structures, collected),
        "volumes": volumes(run, wide, results, collected),
        "agreement": agreement(run, results, collected),
        "profiles": profiles(run, results, collected),
        "repetitions": _repetitions(results),
        "models": [
            (
                caveats.interaction(model),
                comparisons.model_table(model, f"model-{MEASURES[model.metric].short}"),
            )
            for model in results.models
            if not model.by_volume and len(model.structures) > 1
        ],
        "absent": false_positive_table(absent),
        "stability": [
            (
                s,
                comparisons.sensitivity_table(stability, s, f"sensitivity-{k}"),
                caveats.stability_sentence(stability, s),
            )
            for k, s in enumerate(run.structures)
        ],
        "disturbed": cost.disturbed(run, stages),
        "times": time_figures(stages, collected),
        "epochs": epochs_table(collected.frame("epochs", cost.epoch_summary(run))),
        "prediction": prediction_table(stages),
        "stages": stages_table(stages),
        "resources": resources_table(collected.frame("resources", cost.resources(run))),
        "training": training(run, collected),
        "failures": _alike(run),
        "published": published_table(run, summary) if published.comparable(run.structures) else None,
        "published_remark": published.remark(run, summary) if published.comparable(run.structures) else None,
        "citation": published.CITATION,
        "published_patients": published.PATIENTS,
        "left_out": left_out_words(run),
        "coverage": _partial_coverage(run),
        "configuration": json.dumps(dict(run.study), indent=2, ensure_ascii=False, default=str),
    }


def _rankings_frame(ranked: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each structure, metric, way to rank and arm: its rank, and how often it has which in resamples."""
    rows = []
    for record in ranked:
        for scheme, held in record["schemes"].items():
            for k, arm in enumerate(record["arms"]):
                shares = {f"share_{place + 1}": share for place, share in enumerate(held["probability"][k])}
                rows.append(
                    {
                        "structure": record["structure"], "metric": record["metric"], "scheme": scheme, "arm": arm,
                        "rank": held["ranks"][k], "mean_rank": record["mean_ranks"][k], **shares,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _flow(run: FinishedRun, wide: pd.DataFrame, collected: Collected) -> Shown:
    found = flow.flow(run, wide)
    draw = partial(flow.draw_flow, found)
    return collected.figure("flow", "From patients to scores", flow.reading(found), draw, flow.flow_table(found))


def _repetitions(results: Results) -> list[Table]:
    """Tables of the spread between seeds, where there are several."""
    found = [
        comparisons.repetitions_table(results.repetitions, s, metric, f"repetitions-{metric.split('_')[0]}-{k}")
        for k, s in enumerate(results.structures)
        for metric in results.options.primary_metrics
    ]
    return [table for table in found if table.rows]


def _score_section(
    run: FinishedRun,
    summary: pd.DataFrame,
    costs: Mapping[str, float],
    results: Results,
    structure: str,
    index: int,
) -> dict[str, Any]:
    def table(scope: str, name: str) -> Table:
        return score_table(run, summary, structure, scope, costs, f"{name}-{index}")

    primary, secondary = table(WHOLE_VOLUME, "scores"), table(PROMPTED_SLICES, "scores-prompted")
    intervals = comparisons.intervals_table(results.summary, structure, f"intervals-{index}")
    return {"structure": structure, "primary": primary, "secondary": secondary, "intervals": intervals}


def _with_intervals(summary: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The rows of the whole volume with the interval of their mean DSC (dsc_low, dsc_high)."""
    own = results.summary[results.summary["metric"] == "dsc"]
    # With several cases a patient, the mean over cases is not the mean that the interval is of.
    own = own[~own["structure"].isin(results.flow.query("present_cases > present_patients")["structure"])]
    own = own.rename(columns={"mean_low": "dsc_low", "mean_high": "dsc_high"})
    return summary.merge(own[["structure", "arm", "dsc_low", "dsc_high"]], on=["structure", "arm"], how="left")


def _failures(run: FinishedRun) -> pd.DataFrame:
    """The failed steps without their tracebacks."""
    columns = ["step", "arm", "case", "status", "message"]
    rows = [{column: str(failure.get(column) or "") for column in columns} for failure in run.failures]
    return pd.DataFrame(rows, columns=columns)


def _alike(run: FinishedRun) -> list[dict[str, Any]]:
    """Failed steps, those of one arm that differ in nothing but the case as one, with their `cases`."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for failure in run.failures:
        shown = {key: str(failure.get(key) or "") for key in ("step", "arm", "status", "message", "traceback")}
        entry = found.setdefault(tuple(shown.values()), {**shown, "cases": []})
        if failure.get("case"):
            entry["cases"].append(str(failure["case"]))
    return [{**entry, "count": len(entry["cases"]), "cases": listed(entry["cases"])} for entry in found.values()]


def _all_epochs(run: FinishedRun) -> pd.DataFrame:
    """Every arm's epochs.csv, one below the other."""
    parts = [table.assign(arm=arm) for arm, table in run.epochs.items()]
    if not parts:
        return pd.DataFrame(columns=["arm", "epoch", "train_loss", "validation_loss", "seconds"])
    whole = pd.concat(parts, ignore_index=True)
    return whole[["arm", *[column for column in whole.columns if column != "arm"]]]


def _prompt_counts(run: FinishedRun) -> dict[str, tuple[int, int]]:
    """Boxes, and slices with a box, of each structure over the scored cases."""
    if run.prompts is None:
        return {}
    prompts = run.prompts[run.prompts["case"].astype(str).isin(set(run.scores["case"]))]
    values = run.provenance.get("structures") or {}
    found = {}
    for structure in run.structures:
        part = prompts[prompts["structure"] == values.get(structure)]
        found[structure] = (len(part), len(part[["case", "slice"]].drop_duplicates()))
    return found


def _partial_coverage(run: FinishedRun) -> list[tuple[str, str, float]]:
    """(case, modality, share) where a modality's field of view covers less than the whole grid."""
    coverage = run.provenance.get("coverage") or {}
    return [
        (str(case), str(modality), float(share))
        for case, shares in sorted(coverage.items())
        for modality, share in shares.items()
        if share < 0.9995
    ]
