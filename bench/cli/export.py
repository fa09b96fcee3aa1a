"""`bench export`: what a run holds, in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gtvbench.bench.core.errors import EXIT_FAILED_STEPS

export = typer.Typer(no_args_is_help=True, help="Write what a run prepared in the layout of another program.")


@export.command(name="nnunet")
def export_nnunet(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Argument(help="Folder for the data set, for example $nnUNet_raw.")],
    number: Annotated[int, typer.Option(help="Number of the data set, 1 to 999.")] = 1,
    boxes: Annotated[
        Literal["one-channel", "per-structure"] | None, typer.Option(help="Add the box prompts as channels.")
    ] = None,
) -> None:
    """Write nnU-Net's raw layout: training and validation cases, test cases, splits_final.json."""
    from gtvbench.bench.export.nnunet import export_nnunet as write

    typer.echo(str(write(run_folder, out, number, boxes)))


Out = Annotated[Path | None, typer.Option(help="Folder to write to. Default: RUN/private/dicom.", metavar="FOLDER")]
Arms = Annotated[list[str] | None, typer.Option("--arm", help="An arm; may be repeated. Default: all.")]
Cases = Annotated[list[str] | None, typer.Option("--case", help="A case; may be repeated. Default: the test set.")]
Reference = Annotated[bool, typer.Option("--reference", help="Write the reference label map too.")]
StudyFile = Annotated[Path | None, typer.Option("--study", help="Study file, where RUN/private was left behind.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]


def _dicom(kind: str, what: str) -> None:
    """Register `bench export KIND`; RTSTRUCT and SEG take the same options."""

    def command(
        run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
        out: Out = None,
        arm: Arms = None,
        case: Cases = None,
        reference: Reference = False,
        study_file: StudyFile = None,
        force: Force = False,
    ) -> None:
        from gtvbench.bench.export.dicom import export_dicom

        done = export_dicom(run_folder, kind, out, arm or (), case or (), reference, study_file, force)
        for line in done.problems:
            typer.echo(f"not written: {line}", err=True)
        if done.files:
            typer.echo("the files carry the patients' names and numbers: keep them as you keep the originals", err=True)
            typer.echo(f"{len(done.files)} files below {done.files[0].parent.parent}")
        raise typer.Exit(EXIT_FAILED_STEPS if done.problems else 0)

    command.__doc__ = f"""Write predictions as {what} on the DICOM series they were made from.

    The files name the patient. Exit codes: 0, 3 some could not be written, 2.
    """
    export.command(name=kind)(command)


_dicom("rtstruct", "RTSTRUCT")
_dicom("seg", "DICOM SEG")
