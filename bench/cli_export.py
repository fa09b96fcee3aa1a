"""`bench export`: what a run holds, in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    from gtvbench.bench.export import export_nnunet as write

    typer.echo(str(write(run_folder, out, number, boxes)))
