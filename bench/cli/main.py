"""The command line `bench`: parse, call, print."""

from __future__ import annotations

import gc
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from gtvbench.bench.cli import export as cli_export
from gtvbench.bench.cli import init, listing, privacy, scan
from gtvbench.bench.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED_STEPS,
    EXIT_INTERRUPTED,
    EXIT_REQUIREMENT,
    BenchError,
    StudyError,
)
from gtvbench.bench.files.progress import Display, Mode, set_up_logging

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark tumour segmenters: same patients, split, fusion and prompts; scores, timing and a report.",
)
app.command()(init.init)
app.command()(scan.scan)
app.command(name="list")(listing.list_)
app.add_typer(cli_export.export, name="export")
app.command()(privacy.privacy)
_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)

StudyFile = Annotated[Path | None, typer.Argument(help="Study file (YAML). Default: the built-in phantom cohort.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in the study file; may be repeated.")]
LogMode = Annotated[str, typer.Option("--log", help="auto (bars on a terminal), plain, json or quiet; to stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def run(
    study_file: StudyFile = None,
    methods: Annotated[str | None, typer.Option(help="'all' or names, separated by commas.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/<study>.")] = None,
    overrides: Overrides = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="End with the report.")] = True,
    engine: Annotated[
        str | None, typer.Option(help="local; slurm, pbs, sge or lsf; or a Dask scheduler's address.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and compute nothing.")] = False,
    log: LogMode = "auto",
) -> None:
    """Run a study: prepare, train, predict, score, report. Started again, it does only what is missing.

    Exit codes: 0 all arms complete, 3 finished with failed steps, 2 bad input, 130 interrupted.
    """
    from gtvbench.bench.run.run import Run

    mode = _logging(log)
    study, base = _study(study_file, [*(overrides or ()), *_engine(engine)])
    folder = out or study.output / study.study
    chosen = [name.strip() for name in methods.split(",") if name.strip()] if methods is not None else None
    if dry_run:
        _print_plan(study, base, folder, chosen)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started ends with it, on a cluster too
    try:
        outcome = Run(study, base, folder, chosen, Display(mode), report).execute()
    except KeyboardInterrupt:
        _err.print("interrupted; the same command goes on from here")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if mode != "quiet":
        _err.print(_summary(folder))
    if outcome.left_out:
        lost = f"{len(outcome.left_out)} cases could not be prepared and were left out of every arm: "
        _err.print(f"[bold red]left out[/] {lost}", end="")
        _err.print(", ".join(outcome.left_out), markup=False, highlight=False)
    typer.echo(str(outcome.report or folder))
    raise typer.Exit(outcome.exit_code)


def _engine(text: str | None) -> list[str]:
    """What `--engine` stands for in the study file, whose other keys of `engine` are kept."""
    from gtvbench.bench.study.file import BATCH_SYSTEMS

    if text is None:
        return []
    if "://" not in text and text not in ("local", *BATCH_SYSTEMS):
        raise StudyError(
            f"--engine {text!r} is none",
            remedy=f"use local, {', '.join(BATCH_SYSTEMS)}, or the address of a Dask scheduler (tcp://...)",
        )
    address = text if "://" in text else "null"
    cluster = "null" if text == "local" or "://" in text else text
    kind = "local" if text == "local" else "dask"
    return [f"engine.kind={kind}", f"engine.address={address}", f"engine.cluster={cluster}"]


@app.command()
def check(study_file: StudyFile = None, overrides: Overrides = None, log: LogMode = "auto") -> None:
    """Read everything a study names and report what is wrong with it; compute nothing.

    Exit codes: 0 ready (warnings are possible), 2 not ready.
    """
    from gtvbench.bench.prepare.check import check_study

    mode = _logging(log)
    study, base = _study(study_file, overrides)
    result = check_study(study, base, Display(mode))
    for finding in result.findings:
        style = "bold red" if finding.level == "error" else "yellow"
        where = f"{finding.case}: " if finding.case else ""
        _out.print(f"[{style}]{finding.level}[/] ", end="")
        _out.print(f"{where}{finding.message}", markup=False, highlight=False)
        if finding.remedy:
            _out.print(f"        remedy: {finding.remedy}", markup=False, highlight=False)
    for arm in result.arms:
        _out.print(
            f"arm {arm.name}: " + (f"skipped, {arm.skip}" if arm.skip else "ready"), markup=False, highlight=False
        )
    errors = sum(finding.level == "error" for finding in result.findings)
    typer.echo(
        f"{'not ready' if errors else 'ready'}: {result.patients} patients, {errors} errors, "
        f"{len(result.findings) - errors} warnings"
    )
    raise typer.Exit(EXIT_BAD_INPUT if errors else 0)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    require: Annotated[
        list[str] | None,
        typer.Option(help="ARM:STRUCTURE:METRIC>=VALUE on the test set, in quotes; may be repeated.", metavar="TEXT"),
    ] = None,
) -> None:
    """Render the report of a run folder again, from its tables alone.

    A requirement is, for example, 'nnunet-box:GTV-T:dsc>=0.8'. Metrics: dsc, nsd
    (mean over patients), hd95, assd (median, mm); signs: >= <= > <. A method's
    name stands for its only fusion, without a seed for the mean over its seeds.

    Exit codes: 0, 2 bad input, 4 where a requirement does not hold.
    """
    from gtvbench.bench.files.store import refuse_in_use
    from gtvbench.reports.compare.requirements import check_requirements
    from gtvbench.reports.page.build import build_report

    refuse_in_use(run_folder)
    outcomes = check_requirements(run_folder, require) if require else []
    path = build_report(run_folder)
    for outcome in outcomes:
        _err.print("[green]holds[/] " if outcome.holds else "[bold red]FAILS[/] ", end="")
        _err.print(f"{outcome.text} ({outcome.found_text})", markup=False, highlight=False)
    typer.echo(str(path))
    raise typer.Exit(0 if all(outcome.holds for outcome in outcomes) else EXIT_REQUIREMENT)


@app.command()
def paper(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="Where the files go; those of an earlier call are replaced.")],
) -> None:
    """Write what goes into a paper: tables (CSV, LaTeX, Markdown), figures (SVG, PDF), methods text and references.

    Exit codes: 0, 2 bad input.
    """
    from gtvbench.bench.files.store import refuse_in_use
    from gtvbench.reports.paper.write import write_paper

    refuse_in_use(run_folder)
    typer.echo(str(write_paper(run_folder, folder)))


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(help="Two run folders or more.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the comparison. Default: comparisons/<study>.", metavar="FOLDER")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="What to call the runs, in their order: 'lab-a,lab-b'. Default: their folders' names."),
    ] = None,
) -> None:
    """Merge the arms of several runs of one study into one report. The run folders are only read.

    Runs can be compared where they were made from the same data, split and
    prompts, and score in the same way; where not, what differs is named.
    Typically: one study file on two machines, each with its own --methods.

      bench compare runs/lab-a runs/lab-b --out comparison

    Exit codes: 0, 2 bad input or runs that cannot be compared.
    """
    from gtvbench.reports.compare.merge import build_comparison

    chosen = [name.strip() for name in names.split(",")] if names is not None else None
    typer.echo(str(build_comparison(run_folders, out, chosen)))


@app.command()
def score(
    references: Annotated[Path, typer.Argument(help="Folder of reference masks.")],
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, matched by file name.")],
    structures: Annotated[str, typer.Option(help="NAME=VALUE, separated by commas; for example GTVp=1,GTVn=2.")],
    out: Annotated[Path | None, typer.Option(help="Long table of scores (CSV); summary.json lands beside it.")] = None,
    tolerance: Annotated[float, typer.Option(help="Tolerance of the NSD in mm.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Score masks from anywhere: two folders, matched by case. Missing and extra files are reported as rows.

    Exit codes: 0 all cases scored, 3 some are missing, extra or unusable, 2 bad input.
    """
    from gtvbench.bench.score.folders import problem_lines, score_folders, summary_rows

    result = score_folders(references, predictions, _structures(structures), tolerance, out)
    if as_json:
        typer.echo(json.dumps(result.summary))
        return
    header, rows = summary_rows(result.summary)
    _out.print(_table(header, rows))
    for line in problem_lines(result.summary):
        _out.print(line, markup=False, highlight=False)
    if out is not None:
        typer.echo(str(out))
    raise typer.Exit(EXIT_FAILED_STEPS if result.summary["problems"] else 0)


@app.command()
def weights(
    action: Annotated[Literal["list", "verify", "download"], typer.Argument()] = "list",
    name: Annotated[str | None, typer.Argument(help="A name of the catalogue, or a file to verify.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the known weights, verify a file, or download where there is a network."""
    from gtvbench.bench.study import weights

    if action != "list" and name is None:
        raise StudyError(f"'bench weights {action}' needs a name", remedy="see 'bench weights list'")
    if action == "list":
        rows = weights.listing()
        if as_json:
            typer.echo(json.dumps(rows))
            return
        for row in rows:
            _out.print(f"[bold]{row['name']}[/]: {row['description']}", highlight=False)
            for key in ("here", "path", "refused", "get", "megabytes", "licence", "source"):
                value = row[key]
                for number, text in enumerate(value if isinstance(value, list) else [value]):
                    if text is not None:
                        _out.print(f"  {'or' if number else key:10}{text}", markup=False, highlight=False)
    elif action == "verify" and name is not None:
        path = Path(name).expanduser()
        claimed = path.name if path.name in weights.CATALOGUE else None
        found = weights.verify(path, claimed) if path.is_file() else weights.locate(name)
        typer.echo(
            f"{found.path}: sha256 {found.sha256}, git blob {found.git_blob}, "
            f"{'known as ' + found.known.name if found.known else 'not in the catalogue'}"
        )
    elif name is not None:
        typer.echo(str(weights.download(name)))


@app.command(name="check-adapter")
def check_adapter(
    name: Annotated[str, typer.Argument(help="A registered method.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Option of the method, KEY=VALUE.")] = None,
) -> None:
    """Run the conformance suite on a method, with the phantom: what every adapter promises."""
    from gtvbench.bench.cli.conformance import conformance

    set_up_logging("quiet")
    failed = 0
    for result in conformance(name, overrides or []):
        failed += not result.passed
        _out.print("[green]pass[/] " if result.passed else "[bold red]FAIL[/] ", end="")
        _out.print(result.title + ("" if result.passed else f"\n     {result.detail}"), markup=False, highlight=False)
    typer.echo(f"{name}: {'conforms' if not failed else f'{failed} checks failed'}")
    raise typer.Exit(EXIT_BAD_INPUT if failed else 0)


def main() -> None:
    """Entry point: errors of the BenchError family are printed without a traceback."""
    gc.set_threshold(10_000)  # looking for cycles as often as Python does takes a tenth of a report
    try:
        app()
    except BenchError as error:
        _err.print("[bold red]error:[/] ", end="")
        _err.print(str(error), markup=False, highlight=False)
        sys.exit(EXIT_BAD_INPUT)


def _logging(text: str) -> Mode:
    modes: dict[str, Mode] = {"auto": "auto", "plain": "plain", "json": "json", "quiet": "quiet"}
    if text not in modes:
        raise StudyError(f"--log {text!r} is unknown", remedy=f"use one of {', '.join(modes)}")
    set_up_logging(modes[text])
    return modes[text]


def _study(path: Path | None, overrides: list[str] | None) -> tuple[Any, Path]:
    from gtvbench.bench.study.file import builtin_study, read_study

    if path is None:
        return builtin_study("phantom", overrides), Path.cwd()
    return read_study(path, overrides), path.resolve().parent


def _structures(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not name.strip() or not value.strip().isdigit():
            raise StudyError(f"--structures {text!r} is not NAME=VALUE,...", remedy="for example GTVp=1,GTVn=2")
        found[name.strip()] = int(value)
    return found


def _summary(folder: Path) -> Table:
    from gtvbench.bench.core.scores import FAILED, WHOLE_VOLUME
    from gtvbench.reports.analysis.scores import score_summary, status_counts, wide_scores
    from gtvbench.reports.run.load import read_run
    from gtvbench.reports.text.numbers import number

    table = Table(title="Test set, whole volume: mean DSC, median HD95", title_justify="left", box=None, pad_edge=False)
    for column in ("structure", "arm", "n", "DSC", "HD95 mm", "failed"):
        left = column in ("arm", "structure")
        table.add_column(column, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    run = read_run(folder)
    wide = wide_scores(run.scores)
    statuses = status_counts(wide, run.arm_names, run.structures).set_index(["structure", "arm"])
    for row in score_summary(wide, WHOLE_VOLUME, run.arm_names, run.structures).to_dict("records"):
        why = statuses.loc[(row["structure"], row["arm"]), list(FAILED)]
        failed = ", ".join(f"{count} {status}" for status, count in why.items() if count) or "0"
        table.add_row(
            row["structure"], row["arm"], str(row["n"]), number(row["dsc_mean"], 3), number(row["hd95_median_mm"], 1),
            failed,
        )  # fmt: skip
    return table


def _print_plan(study: Any, base: Path, folder: Path, chosen: list[str] | None) -> None:
    from gtvbench.bench.run.dry_run import plan_jobs
    from gtvbench.reports.text.numbers import duration

    jobs = plan_jobs(study, base, folder, chosen)
    for job in jobs:
        after = f", after {job.after}" if job.after else ""
        about = f", about {duration(job.seconds)}" if job.seconds else ""
        _out.print(f"{job.name}: {job.what}{about}{after}", markup=False, highlight=False)
    known = [job for job in jobs if job.seconds]
    unknown = [job.name for job in jobs if job.where and not job.seconds]
    where = dict.fromkeys(job.where for job in jobs if job.where)
    typer.echo(f"on {', then on '.join(where)}" if where else "nothing is left to do")
    if known:
        total = duration(sum(job.seconds or 0.0 for job in known))
        typer.echo(f"about {total} one after another, by the clocks of {', '.join(dict.fromkeys(j.by for j in known))}")
    if unknown:
        named = ", ".join(unknown) if len(unknown) < 5 else f"{len(unknown)} of these"
        typer.echo(f"no former run tells the time of {named}")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
