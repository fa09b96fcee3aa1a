"""Size of the target: scores against the reference volume, thirds of patients, and agreement of volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from gtvbench.bench.core.scores import MEASURES, WHOLE_VOLUME
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.analysis import Results
from gtvbench.reports.analysis.contrasts import by_patient
from gtvbench.reports.analysis.volumes import reference_volumes
from gtvbench.reports.figures import static_charts, violins, volume_figures
from gtvbench.reports.figures.charts import Axis, Chart, Dash, Series
from gtvbench.reports.figures.volume_figures import AgreementFigure, AgreementPanel
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences import caveats
from gtvbench.reports.tables import comparisons
from gtvbench.reports.text.numbers import counted, number, visible

#: Above so many points of a chart they are drawn pale.
_MANY = 200

DASHES: tuple[Dash, ...] = ("solid", "dash", "dot", "dashdot")


def volumes(run: FinishedRun, wide: pd.DataFrame, results: Results, collected: Collected) -> list[dict[str, Any]]:
    """For each structure with recorded volumes: charts, table of thirds, and the test of interaction."""
    found = []
    for index, structure in enumerate(run.structures):
        parts = []
        for metric in results.options.primary_metrics:
            name = f"{MEASURES[metric].short}-{index}"
            chart = _against_volume(run, wide, results, structure, metric, f"volume-{name}")
            if chart is None:
                continue
            draw = partial(static_charts.chart, chart)
            parts.append(
                {
                    "figure": collected.figure(chart.id, chart.title, chart.reading, draw),
                    "thirds": comparisons.subgroup_table(results.subgroups, structure, metric, f"thirds-{name}"),
                    "sentence": caveats.interaction(results.model(metric, structure)),
                }
            )
        if parts:
            found.append({"structure": structure, "parts": parts})
    return found


def line_styles(arms: Sequence[ArmRecord]) -> dict[str, tuple[str, Dash]]:
    """Colour and dash of each arm's line: the colour tells the method, the dash the fusion."""
    colours = violins.styles(arms)
    fusions = list(dict.fromkeys(arm.fusion for arm in arms))
    return {arm.name: (colours[arm.name][0], DASHES[fusions.index(arm.fusion) % len(DASHES)]) for arm in arms}


def _against_volume(
    run: FinishedRun, wide: pd.DataFrame, results: Results, structure: str, metric: str, name: str
) -> Chart | None:
    measure = MEASURES[metric]
    reference = reference_volumes(wide, structure)
    reference = reference[reference > 0]
    table = by_patient(wide, structure, metric).reindex(reference.index)
    if table.empty:
        return None
    # A penalty (diagonal of the grid) would squeeze everything else: those patients stand above the chart, counted.
    failed = wide[wide["failed"] & (wide["structure"] == structure) & (wide["scope"] == WHOLE_VOLUME)]
    lost = set() if measure.bounded else set(zip(failed["patient"], failed["arm"], strict=True))
    shown = table.copy()
    for patient, arm in lost & set(itertools.product(table.index, table.columns)):
        shown.loc[patient, arm] = float("nan")
    first = run.scores.groupby("patient")["case"].first()
    cases = tuple(str(first[patient]) for patient in table.index)
    lines, marks = line_styles(run.scored_arms), violins.styles(run.scored_arms)
    series = []
    pale = table.size > _MANY
    top = float(np.nanmax(shown.to_numpy(float))) if shown.notna().any(axis=None) else 1.0
    for arm in [a.name for a in run.scored_arms if a.name in table.columns]:
        colour, dash = lines[arm]
        words = tuple(
            f"{visible(str(p))}, {visible(arm)}: {number(v, measure.digits)} at {number(ml, 1)} mL"
            for p, v, ml in zip(table.index, shown[arm], reference, strict=True)
        )
        values = tuple(float(v) if math.isfinite(v) else None for v in shown[arm])
        xs = tuple(round(float(ml), 4) for ml in reference)
        name_of = violins.shorten(arm)
        curve = results.trends
        curve = curve[(curve["structure"] == structure) & (curve["metric"] == metric) & (curve["arm"] == arm)]
        marker, smooth = marks[arm][1], len(curve) > 0
        series.append(
            Series(
                "points",
                name_of,
                colour,
                xs,
                values,
                marker=marker,
                words=words,
                cases=cases,
                legend=not smooth,
                pale=pale,
            )
        )
        if smooth:
            at, score = (tuple(round(float(v), 4) for v in curve[column]) for column in ("volume_ml", "score"))
            series.append(Series("line", name_of, colour, at, score, dash=dash, legend=True))
    low, high = float(reference.min()), float(reference.max())
    ticks = tuple((tick, f"{tick:g}") for tick in volume_figures.volume_ticks(low, high))
    span = (math.log10(low / 1.15), math.log10(high * 1.15))
    drawn = any(len(s.x) for s in series if s.kind == "line")
    reading = "Each mark is one patient in one arm" + (
        "; the lines are smoothed (lowess): one that "
        f"{'falls' if measure.higher_is_better else 'rises'} to the left does worse on small targets."
        if drawn
        else "; too few patients for a smooth line."
    )
    if lost:
        reading += f" {counted(len(lost), 'mask')} that failed {'lies' if len(lost) == 1 else 'lie'} above the chart."
    return Chart(
        name,
        f"{structure}: {measure.title} against the size of the target",
        reading,
        Axis("reference volume, mL (logarithmic)", log=True, range=span, ticks=ticks),
        Axis(measure.axis, range=(0.0, 1.02) if measure.bounded else (0.0, 1.04 * max(top, 1e-6))),
        tuple(series),
        height=300 + 20 * sum(s.legend for s in series),
    )


def agreement(run: FinishedRun, results: Results, collected: Collected) -> list[dict[str, Any]]:
    """Bland-Altman figures of each structure in mL and as ratio, with their table."""
    found = []
    for index, structure in enumerate(run.structures):
        points = results.volumes[results.volumes["structure"] == structure]
        limits = results.agreement[results.agreement["structure"] == structure]
        if points.empty:
            continue
        shown = [
            _bland_altman(run, points, limits, structure, index, collected, ratio=ratio) for ratio in (False, True)
        ]
        table = comparisons.agreement_table(limits, structure, f"agreement-{index}")
        found.append({"structure": structure, "figures": [f for f in shown if f is not None], "table": table})
    return found


def _bland_altman(
    run: FinishedRun,
    points: pd.DataFrame,
    limits: pd.DataFrame,
    structure: str,
    index: int,
    collected: Collected,
    *,
    ratio: bool,
) -> Shown | None:
    styles = violins.styles(run.scored_arms)
    cases = run.scores.groupby("patient")["case"].unique()
    panels = []
    for arm in run.scored_arms:
        own = points[points["arm"] == arm.name]
        own = own[own["predicted_ml"] > 0] if ratio else own
        row = limits[limits["arm"] == arm.name]
        if own.empty or row.empty:
            continue
        kind, unit = ("ratio", "") if ratio else ("difference", "_ml")
        middle, low, high = (float(row[f"{kind}{end}{unit}"].iloc[0]) for end in ("", "_low", "_high"))
        if ratio:
            middle, low, high = (math.log2(v) if v > 0 else float("nan") for v in (middle, low, high))
        marks = []
        for patient, reference, predicted in own[["patient", "reference_ml", "predicted_ml"]].itertuples(False):
            x, y = (reference + predicted) / 2, predicted - reference
            if ratio:
                x, y = math.sqrt(reference * predicted), math.log2(predicted / reference)
            marks.append((round(float(x), 5), round(float(y), 5), str(cases[patient][0])))
        known = all(math.isfinite(v) for v in (middle, low, high))
        panels.append(
            AgreementPanel(
                arm.name,
                caveats.limits(row.iloc[0], ratio=ratio),
                *styles[arm.name],
                tuple(marks),
                (middle, low, high) if known else None,
            )
        )
    if not panels:
        return None
    what = "ratio of volumes" if ratio else "difference of volumes in mL"
    reading = (
        "Predicted against reference volume, one mark a patient; solid: mean; dashed: 95 % limits of agreement; "
        f"{'1' if ratio else '0'} is agreement, above it the prediction is larger. Each row of panels has its own "
        "scale."
    )
    figure = AgreementFigure(
        f"bland-altman-{'ratio' if ratio else 'ml'}-{index}", f"{structure}: {what}", reading,
        "mean volume, mL", "predicted / reference" if ratio else "predicted − reference, mL",
        tuple(panels), ratio,
    )  # fmt: skip
    draw = partial(volume_figures.bland_altman, figure)
    return collected.figure(figure.id, figure.title, figure.reading, draw)
