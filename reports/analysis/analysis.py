"""Every number of the report: one analysis of a run, and stats.json (docs/stats-json.md) from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gtvbench.bench.study.file import StatisticsOptions
from gtvbench.reports.analysis import contrasts, descriptions, scores, volumes
from gtvbench.reports.analysis.models import Model, models
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.statistics.ranking import TAU_EDGES

#: Version of stats.json, raised when a path of it changes its name or meaning.
SCHEMA = 2

#: Significant digits of a number: the last bits of a sum may differ from one processor to another.
DIGITS = 10

#: Columns of whole numbers, which pandas holds as floats where some are missing.
_WHOLE = frozenset({"needed", "needed_equivalence"})


@dataclass(frozen=True)
class Results:
    """What a run shows. Tables have a row a record; columns are described where they are made, and in docs.

    `flow`, `status`, `summary`, `profiles`, `repetitions`: descriptions.py and scores.py; `contrasts`,
    `rankings`: contrasts.py; `sensitivity`, `false_positives`: scores.py; `models`: models.py; `volumes` (a row a
    patient; not in stats.json), `agreement`, `subgroups`, `trends`: volumes.py.
    """

    options: StatisticsOptions
    arms: tuple[str, ...]
    structures: tuple[str, ...]
    flow: pd.DataFrame
    status: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    rankings: list[dict[str, Any]]
    sensitivity: pd.DataFrame
    false_positives: pd.DataFrame
    models: list[Model]
    subgroups: pd.DataFrame
    trends: pd.DataFrame
    volumes: pd.DataFrame
    agreement: pd.DataFrame
    profiles: pd.DataFrame
    repetitions: pd.DataFrame

    def model(self, metric: str, structure: str | None = None) -> Model | None:
        """The model of a metric over all structures, or that of one structure against volume."""
        for model in self.models:
            fits = not model.by_volume if structure is None else model.by_volume and model.structures == (structure,)
            if model.metric == metric and fits:
                return model
        return None


def analyse(run: FinishedRun, wide: pd.DataFrame) -> Results:
    """Every statistic of the report; `wide` is scores.wide_scores(run.scores).

    Patients are resampled with a fixed seed: the same tables give the same numbers. Raises StoreError where the study
    file's block `statistics` is no sense.
    """
    arms = tuple(arm.name for arm in run.scored_arms)
    paired = volumes.paired_volumes(run, wide)
    return Results(
        options=contrasts.statistics_of(run),
        arms=arms,
        structures=run.structures,
        flow=descriptions.flow(run, wide),
        status=scores.status_counts(wide, arms, run.structures),
        summary=descriptions.summary(run, wide),
        contrasts=contrasts.contrasts(run, wide),
        rankings=contrasts.rankings(run, wide),
        sensitivity=scores.sensitivity(wide, arms, run.structures),
        false_positives=scores.false_positives(wide, arms, run.structures),
        models=models(run, wide),
        subgroups=volumes.subgroups(run, wide),
        trends=volumes.trends(run, wide),
        volumes=paired,
        agreement=volumes.agreement(paired),
        profiles=descriptions.profiles(run, wide),
        repetitions=descriptions.repetitions(run, wide),
    )


def as_json(results: Results) -> dict[str, Any]:
    """Content of stats.json: plain lists, mappings, texts and numbers; a number that does not exist is None."""
    options = results.options
    planned = results.contrasts[results.contrasts["planned"].astype(bool)]  # an empty table has no dtype
    content = {
        "schema": SCHEMA,
        "seed": contrasts.SEED,
        "level": contrasts.LEVEL,
        "resamples": options.resamples,
        "primary_metrics": list(options.primary_metrics),
        "margins": [
            {"structure": structure, "metric": metric, "margin": options.margin(metric, structure)}
            for structure in results.structures
            for metric in options.primary_metrics
        ],
        "families": [
            {"structure": structure, "metric": metric, "contrasts": group[["one", "other"]].to_numpy().tolist()}
            for (structure, metric), group in planned.groupby(["structure", "metric"], sort=False)
        ],
        "arms": list(results.arms),
        "structures": list(results.structures),
        "tau_b_edges": TAU_EDGES.tolist(),
        "rankings": [
            {**one, "schemes": [{"scheme": name, **held} for name, held in one["schemes"].items()]}
            for one in results.rankings
        ],
        "models": [asdict(model) for model in results.models],
        "trends": _columns(results.trends, ("structure", "metric", "arm"), ("volume_ml", "score")),
        "profiles": _columns(
            results.profiles, ("structure", "metric", "arm", "n"), ("threshold", "share", "low", "high")
        ),
    }
    names = (
        "flow", "status", "summary", "contrasts", "sensitivity", "false_positives", "subgroups", "agreement",
        "repetitions",
    )  # fmt: skip
    content |= {name: getattr(results, name).to_dict("records") for name in names}
    found: dict[str, Any] = _plain(content)
    return found


def _columns(table: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
    """A record for each combination of the keys, with whole columns: a curve."""
    return [
        {**dict(zip(keys, values, strict=True)), **{column: group[column].tolist() for column in columns}}
        for values, group in table.groupby(list(keys), sort=False)
    ]


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if key in _WHOLE else float(f"{value:.{DIGITS}g}")
    return value
