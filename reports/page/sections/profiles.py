"""Performance profiles: in how many patients an arm is at least so good."""

from __future__ import annotations

from functools import partial

from gtvbench.bench.core.scores import MEASURES
from gtvbench.reports.analysis.analysis import Results
from gtvbench.reports.figures import static_charts, violins
from gtvbench.reports.figures.charts import Axis, Chart, Rule, Series
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.page.sections.volumes import line_styles
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.tables import comparisons


def profiles(run: FinishedRun, results: Results, collected: Collected) -> list[Shown]:
    """A chart for each structure and primary metric."""
    shown = []
    lines = line_styles(run.scored_arms)
    for index, structure in enumerate(run.structures):
        for metric in results.options.primary_metrics:
            table = results.profiles
            table = table[(table["structure"] == structure) & (table["metric"] == metric) & (table["n"] > 0)]
            if table.empty:
                continue
            measure = MEASURES[metric]
            bands, curves = [], []
            for arm in [a.name for a in run.scored_arms if (table["arm"] == a.name).any()]:
                own = table[table["arm"] == arm]
                x = tuple(float(v) for v in own["threshold"])
                share, low, high = (tuple(round(float(v), 4) for v in own[c]) for c in ("share", "low", "high"))
                colour, dash = lines[arm]
                bands.append(Series("band", arm, colour, x, low, high))
                curves.append(Series("steps", violins.shorten(arm), colour, x, share, dash=dash, legend=True))
            # Bands of many arms hide each other; they stay in the table.
            series = (*(bands if len(bands) <= 3 else ()), *curves)
            side = "at least" if measure.higher_is_better else "at most"
            reading = (
                f"Share of patients whose {measure.title} is {side} the value below; the higher a line, the better"
                + ("; shaded: pointwise 95 % band." if len(bands) <= 3 else ".")
            )
            name = f"profile-{measure.short}-{index}"
            chart = Chart(
                name, f"{structure}: share of patients by {measure.title}", reading, Axis(measure.named),
                Axis("share of patients", range=(0.0, 1.02)), tuple(series), (Rule("y", 0.9, "dot", "90 %"),),
                height=290 + 20 * len(curves),
            )  # fmt: skip
            values = comparisons.profile_table(table, structure, metric, f"{name}-values")
            shown.append(collected.figure(name, chart.title, reading, partial(static_charts.chart, chart), values))
    return shown
