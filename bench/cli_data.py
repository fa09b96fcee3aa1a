"""Commands that lead from what lies on the disk to a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gtvbench.bench.core.errors import StudyError


def init(
    path: Annotated[Path, typer.Argument(help="Study file to write.")] = Path("study.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented study file to start from."""
    from importlib.resources import files

    if path.exists() and not force:
        raise StudyError("the file exists", file=path, remedy="choose another name, or --force")
    text = (files("gtvbench.bench.studies") / "template.yaml").read_text()
    try:
        path.write_text(text)
    except OSError as error:
        raise StudyError(f"the file cannot be written: {error.strerror}", file=path) from error
    typer.echo(f"{path}: edit it, then 'bench check {path}' and 'bench run {path}'")
