"""Builds the report of a run folder: report/index.html and the tables and figures under report/data.

The page is made from the run's tables alone and holds everything it shows: no request leaves it, and it reads the same
without JavaScript. The same tables give the same bytes.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from gtvbench.bench.core.errors import StoreError
from gtvbench.reports import contrasts, cost, figures, interactive, layout, prose, published, static, tables
from gtvbench.reports.load import Run, read_run
from gtvbench.reports.text import listed, redact, redact_all, visible

#: Raised when the same tables give another page, so that finished runs are rendered again.
REPORT_VERSION = 3

#: Above this size the page goes without interactive figures: the static ones carry the result.
MAX_BYTES = 10_000_000
#: Tables up to this size travel inside the page; larger ones are linked under report/data.
MAX_INLINE_CSV = 64_000

_HERE = Path(__file__).parent


def report_version() -> int:
    """Version of the page's content, part of the report step's key."""
    return REPORT_VERSION


def build_report(run: Path) -> Path:
    """Write report/index.html and report/data/* of a run folder and return the page's path.

    Every file is replaced whole, the page last. Raises StoreError where a table of the run is missing or damaged, or
    the folder cannot be written; the error names the file and the remedy.
    """
    return write_report(read_run(run), run / "report")


def write_report(run: Run, target: Path) -> Path:
    """Write index.html and data/* of a run in memory into a folder and return the page's path; StoreError as above."""
    page, data = render(run)
    try:
        (target / "data").mkdir(parents=True, exist_ok=True)
        for name, text in data.items():
            _replace(target / "data" / name, text)
        _replace(target / "index.html", page)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written ({error.strerror})",
            file=error.filename or target,
            remedy="make room, or make the folder writable, and start `bench report` on it again",
        ) from error
    return target / "index.html"


def render(run: Run) -> tuple[str, dict[str, str]]:
    """The page and the files of report/data (name -> text) of a run in memory."""
    wide = tables.wide_scores(run.scores)
    arms = [arm.name for arm in run.scored_arms]
    scopes = (tables.PRIMARY_SCOPE, tables.SECONDARY_SCOPE)
    summary = pd.concat([tables.score_summary(wide, scope, arms, run.structures) for scope in scopes])
    volume = summary[summary["scope"] == tables.PRIMARY_SCOPE]
    stability = tables.sensitivity(wide, arms, run.structures)
    costs = {arm: cost.seconds_per_slice(run, arm) for arm in arms}
    differences, ranked = contrasts.contrasts(run, wide), contrasts.rankings(run, wide)
    frames = {
        "scores.csv": run.scores,
        "summary.csv": summary,
        "status.csv": tables.status_counts(wide, arms, run.structures),
        "false_positives.csv": tables.false_positives(wide, arms, run.structures),
        "sensitivity.csv": stability,
        "contrasts.csv": differences,
        "epochs.csv": cost.epoch_summary(run),
        "timing.csv": cost.stage_summary(run),
        "resources.csv": cost.resources(run),
        "training.csv": _all_epochs(run),
        "failures.csv": _failures(run),
    }
    data = {name: frame.to_csv(index=False, lineterminator="\n") for name, frame in frames.items()}
    data["stats.json"] = json.dumps(contrasts.as_json(differences, ranked), indent=1, allow_nan=False) + "\n"
    violins, specifications = _violins(run, wide, data)
    training, more = _training(run, data)
    context = {
        "run": run,
        "banners": prose.banners(run, wide, summary),
        "findings": prose.findings(run, wide, volume, differences),
        "remarks": prose.remarks(run, costs, stability, differences),
        "presence": tables.presence(wide, run.structures),
        "prompts": _prompt_counts(run),
        "arms": layout.arms_table(run),
        "status": layout.status_table(frames["status.csv"]),
        "scores": [_score_section(run, summary, costs, structure, k) for k, structure in enumerate(run.structures)],
        "differences": [_difference_section(differences, ranked, s, k, data) for k, s in enumerate(run.structures)],
        "resamples": contrasts.statistics_of(run).resamples,
        "margins": prose.margins(contrasts.statistics_of(run)),
        "violins": violins,
        "absent": layout.false_positive_table(frames["false_positives.csv"]),
        "stability": [
            (layout.sensitivity_table(stability, s, f"sensitivity-{k}"), prose.stability_sentence(stability, s))
            for k, s in enumerate(run.structures)
        ],
        "epochs": layout.epochs_table(frames["epochs.csv"]),
        "prediction": layout.prediction_table(frames["timing.csv"]),
        "stages": layout.stages_table(frames["timing.csv"]),
        "resources": layout.resources_table(frames["resources.csv"]),
        "training": training,
        "failures": _alike(run),
        "published": layout.published_table(run, summary) if published.comparable(run.structures) else None,
        "citation": published.CITATION,
        "published_patients": published.PATIENTS,
        "coverage": _partial_coverage(run),
        "configuration": json.dumps(redact_all(dict(run.study)), indent=2, ensure_ascii=False, default=str),
        "figures": Markup(_script_json(specifications + more)),
        "plotly": Markup(get_plotlyjs()) if specifications + more else None,
        "links": {name: _link(name, text) for name, text in data.items() if name.endswith(".csv")},
    }
    page = _environment().get_template("report.html.j2").render(context)
    if len(page.encode(errors="backslashreplace")) > MAX_BYTES:
        page = _environment().get_template("report.html.j2").render({**context, "plotly": None})
    return page, data


def _score_section(
    run: Run, summary: pd.DataFrame, costs: Mapping[str, float | None], structure: str, index: int
) -> dict[str, Any]:
    def table(scope: str, name: str) -> layout.Table:
        return layout.score_table(run, summary, structure, scope, costs, f"{name}-{index}")

    primary, secondary = table(tables.PRIMARY_SCOPE, "scores"), table(tables.SECONDARY_SCOPE, "scores-prompted")
    return {"structure": structure, "primary": primary, "secondary": secondary}


def _difference_section(
    differences: pd.DataFrame, ranked: list[dict[str, Any]], structure: str, index: int, data: dict[str, str]
) -> dict[str, Any]:
    """One structure: planned and exploratory differences, how firm the ranking is; SVG files are added to `data`."""

    def table(metric: str, planned: bool) -> layout.Table:
        name = f"{'planned' if planned else 'exploratory'}-{metric.split('_')[0]}-{index}"
        return layout.contrast_table(differences, structure, metric, planned, name)

    forests: list[dict[str, Any]] = []
    for metric, higher in contrasts.PRIMARY.items():
        drawn = figures.forest(differences, structure, metric, higher, 2 * index + len(forests))
        if drawn is not None:
            svg = static.forest(drawn)
            data[f"{drawn.id}.svg"] = svg
            inline = Markup(static.inline(svg, drawn.id))
            forests.append({"figure": drawn, "svg": inline, "reading": figures.forest_reading(drawn)})
    own = [record for record in ranked if record["structure"] == structure]
    return {
        "structure": structure,
        "reading": prose.contrast_reading(differences, structure),
        "forests": forests,
        "planned": [table(metric, True) for metric in contrasts.PRIMARY],
        "exploratory": [table(metric, False) for metric in contrasts.PRIMARY],
        "ranking": [
            (layout.ranking_table(record, f"ranking-{record['metric'].split('_')[0]}-{index}"), prose.ranking(record))
            for record in own
        ],
    }


def _violins(run: Run, wide: pd.DataFrame, data: dict[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Violin panels for the template, and their plotly specifications; the SVG files are added to `data`."""
    shown: list[dict[str, Any]] = []
    specifications: list[dict[str, Any]] = []
    for structure in run.structures:
        for metric, name, digits in (("dsc", "DSC", 3), ("hd95_mm", "HD95 in mm", 1)):
            arms = run.scored_arms
            panel = figures.panel(wide, structure, metric, arms, len(shown))
            if panel is None:
                continue
            svg = static.violins(panel)
            data[f"{panel.id}.svg"] = svg
            specifications.append(interactive.violins(panel))
            values = tables.per_case(wide, structure, metric, [arm.name for arm in arms])
            shown.append(
                {
                    "id": panel.id,
                    "title": panel.title,
                    "height": panel.height,
                    "reading": figures.panel_reading(panel),
                    "svg": Markup(static.inline(svg, panel.id)),
                    "table": layout.values_table(
                        values, f"{structure}: {name} of every case", digits, f"{panel.id}-values"
                    ),
                }
            )
    return shown, specifications


def _training(run: Run, data: dict[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training curves for the template, and their plotly specifications; the SVG files are added to `data`."""
    shown: list[dict[str, Any]] = []
    specifications: list[dict[str, Any]] = []
    colours = figures.styles(run.arms)
    for arm in run.arms:
        if arm.name not in run.epochs:
            continue
        curves = figures.curves(run.epochs[arm.name], arm, colours[arm.name][0], len(shown))
        svg = static.training(curves)
        data[f"{curves.id}.svg"] = svg
        specifications.append(interactive.training(curves))
        shown.append(
            {
                "id": curves.id,
                "title": curves.title,
                "height": interactive.TRAINING_HEIGHT,
                "reading": figures.curves_reading(curves),
                "svg": Markup(static.inline(svg, curves.id)),
                "table": layout.training_table(run.epochs[arm.name], arm.name, f"{curves.id}-values"),
            }
        )
    return shown, specifications


def _failures(run: Run) -> pd.DataFrame:
    """The failed steps without their tracebacks."""
    columns = ["step", "arm", "case", "status", "message"]
    rows = [{column: redact(str(failure.get(column) or "")) for column in columns} for failure in run.failures]
    return pd.DataFrame(rows, columns=columns)


def _alike(run: Run) -> list[dict[str, Any]]:
    """Failed steps, those of one arm that differ in nothing but the case as one, with their `cases`."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for failure in run.failures:
        shown = {key: redact(str(failure.get(key) or "")) for key in ("step", "arm", "status", "message", "traceback")}
        entry = found.setdefault(tuple(shown.values()), {**shown, "cases": []})
        if failure.get("case"):
            entry["cases"].append(str(failure["case"]))
    return [{**entry, "count": len(entry["cases"]), "cases": listed(entry["cases"])} for entry in found.values()]


def _all_epochs(run: Run) -> pd.DataFrame:
    """Every arm's epochs.csv, one below the other."""
    parts = [table.assign(arm=arm) for arm, table in run.epochs.items()]
    if not parts:
        return pd.DataFrame(columns=["arm", "epoch", "train_loss", "validation_loss", "seconds"])
    whole = pd.concat(parts, ignore_index=True)
    return whole[["arm", *[column for column in whole.columns if column != "arm"]]]


def _prompt_counts(run: Run) -> dict[str, tuple[int, int]]:
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


def _partial_coverage(run: Run) -> list[tuple[str, str, float]]:
    """(case, modality, share) where a modality's field of view covers less than the whole grid."""
    coverage = run.provenance.get("coverage") or {}
    return [
        (str(case), str(modality), float(share))
        for case, shares in sorted(coverage.items())
        for modality, share in shares.items()
        if share < 0.9995
    ]


def _script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, and no NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _link(name: str, text: str) -> str:
    raw = text.encode(errors="backslashreplace")
    if len(raw) > MAX_INLINE_CSV:
        return f"data/{name}"
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(raw).decode()}"


def _name(text: object) -> Markup:
    """A name as HTML: isolated from the direction of the text around it, with places where a line may break."""
    broken = escape(visible(str(text)))
    for mark in (".", "_", "-"):
        broken = broken.replace(mark, Markup(f"{mark}<wbr>"))
    return Markup("<bdi>{}</bdi>").format(broken)


def _lines(text: object) -> Markup:
    """Several lines as HTML, each made harmless; line breaks stay."""
    return escape("\n".join(visible(line) for line in str(text).splitlines()))


def _shown(value: object) -> object:
    return visible(value) if type(value) is str else value


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,  # records of other versions may lack a field
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(name=_name, lines=_lines, redact=redact)
    environment.globals.update(
        css=Markup((_HERE / "assets" / "report.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "assets" / "report.js").read_text(encoding="utf-8")),
    )
    return environment


def _replace(path: Path, text: str) -> None:
    """Write a file whole under another name, then put it in place."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(text.encode(errors="backslashreplace"))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
