"""`bench scan`: from DICOM folders to a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gtvbench.bench.cli.init import refuse_existing, write_new

_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)


def scan(
    folder: Annotated[Path, typer.Argument(help="A folder with DICOM files, however deep.")],
    out: Annotated[Path, typer.Option(help="Study file to write.", metavar="FILE")] = Path("study.yaml"),
    name: Annotated[str, typer.Option(help="Name of the study.")] = "my-study",
    patients: Annotated[bool, typer.Option("--patients", help="List every series of every patient.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing study file.")] = False,
) -> None:
    """Look what DICOM files are there, and write a draft study file.

    Files are told by their headers, never by their names. Patients go by
    pseudonyms, whose key stays in gtvbench-private beside the study file.
    """
    from gtvbench.bench.presets.scan import draft, patient_rows, scan_folder, series_rows, structure_rows, summary_lines

    refuse_existing(out, force)  # before minutes of reading
    base = out.resolve().parent
    with _err.status("Reading headers") as status:
        found = scan_folder(folder, base, lambda done, of: status.update(f"Reading headers: {done} of {of} files"))
    for line in summary_lines(found):
        _out.print(line, markup=False, highlight=False)
    _print(
        "Series", ("use", "DICOM", "description", "patients", "series", "slices", "mm", "remark"), series_rows(found)
    )
    _print("Structures", ("name", "in", "patients", "becomes"), structure_rows(found))
    if patients:
        _print("Patients", ("patient", "study", "id", "DICOM", "description", "files", "use"), patient_rows(found))
    for case, text in list(found.undecided.items())[:5]:
        _out.print(f"undecided: {case}: {text}", markup=False, highlight=False)
    if len(found.undecided) > 5:
        _out.print(f"undecided: {len(found.undecided) - 5} more patients (bench check names them)")
    write_new(out, draft(found, folder, base, name), force)
    typer.echo(f"{out}: look at it, then 'bench check {out}' and 'bench run {out}'")


def _print(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows:
        _out.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    _out.print(table)
