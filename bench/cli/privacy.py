"""`bench privacy`: whether the shareable part of a run folder holds anything of its input that must not leave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from gtvbench.bench.core.errors import EXIT_FAILED_STEPS, DataError


def privacy(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    input_folder: Annotated[
        list[Path] | None,
        typer.Option("--input", help="Folder of the input; may be repeated. Default: the study's.", metavar="FOLDER"),
    ] = None,
    study_file: Annotated[
        Path | None, typer.Option("--study", help="The study file, where RUN/private is not there.", metavar="FILE")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what was found, not only what it is.")] = False,
) -> None:
    """Search what may be shared of a run for names, IDs, dates, UIDs and paths of its input.

    Exit codes: 0 nothing found, 3 something found, 2 bad input.
    """
    from gtvbench.bench.privacy.policy import CLINICAL, shareable_files
    from gtvbench.bench.privacy.private import read_private
    from gtvbench.bench.privacy.search import search_run
    from gtvbench.bench.privacy.terms import dicom_terms, path_terms

    folders = list(input_folder or ())
    clinical, terms = bool(folders), path_terms([run_folder])
    if not folders or study_file is not None:
        study, base = read_private(run_folder, study_file)
        clinical = study.dataset["source"] in CLINICAL
        terms |= path_terms([base])
        given = study.dataset.get("path")
        if isinstance(given, str) and not folders:
            folders = [base / Path(given).expanduser()]
    for folder in folders:
        if not folder.is_dir():
            raise DataError("the input folder is not there", file=folder, remedy="say where it is with --input FOLDER")
        terms |= (dicom_terms(folder) if clinical else set()) | path_terms([folder])
    leaks = search_run(run_folder, terms)
    for leak in leaks:
        typer.echo(f"{leak.file}: {leak.kind}{f' {leak.value!r}' if show else ''} ({leak.where})")
    kinds = Counter(term.kind for term in terms)
    looked = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(kinds.items()))
    files = sum(1 for _ in shareable_files(run_folder))
    typer.echo(f"{len(leaks) or 'nothing'} found in {files} files that may be shared; looked for {looked}")
    raise typer.Exit(EXIT_FAILED_STEPS if leaks else 0)
