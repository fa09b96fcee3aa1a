"""Commands that lead from what lies on the disk to a study file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gtvbench.bench.core.errors import StudyError


def init(
    path: Annotated[
        Path, typer.Argument(help="Study file to write; with --preset the folder of the data set.", metavar="PATH")
    ] = Path("study.yaml"),
    preset: Annotated[
        str | None, typer.Option(help="A public data set: look whether it is at PATH, write its study file.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the preset (see --list-presets).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --preset: study file to write. Default: study.yaml.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    list_presets: Annotated[bool, typer.Option("--list-presets", help="List the presets and stop.")] = False,
) -> None:
    """Write a commented study file to start from, or one for a public data set.

    bench init study.yaml

    bench init --preset hecktor2022 data/hecktor2022_training --out hecktor.yaml
    """
    if list_presets:
        from gtvbench.bench.presets.write import listing

        for row in listing():
            variants = f" [{row['variants']}]" if row["variants"] else ""
            typer.echo(f"{row['name']}: {row['data set']}; targets: {row['targets']}; {row['licence']}{variants}")
        return
    if preset is None:
        if variant is not None or out is not None:
            raise StudyError("--variant and --out go with --preset", remedy="see 'bench init --list-presets'")
        from importlib.resources import files

        write_new(path, (files("gtvbench.bench.study") / "template.yaml").read_text(), force)
        typer.echo(f"{path}: edit it, then 'bench check {path}' and 'bench run {path}'")
        return
    from gtvbench.bench.presets.write import write_study

    target = out or Path("study.yaml")
    text, lines = write_study(preset, path, target, variant)
    write_new(target, text, force)
    for line in lines:
        typer.echo(line)
    typer.echo(f"{target}: look at it, then 'bench check {target}' and 'bench run {target}'")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise StudyError where a file is there already and `force` is not set."""
    if path.exists() and not force:
        raise StudyError("the file exists", file=path, remedy="choose another name, or --force")


def write_new(path: Path, text: str, force: bool) -> None:
    """Write a study file; raises StudyError where there is one already and `force` is not set."""
    refuse_existing(path, force)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"the file cannot be written: {error.strerror}", file=path) from error
