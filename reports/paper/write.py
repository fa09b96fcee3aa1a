"""What goes into a paper, as files: tables, figures, numbers, the methods text and its references."""

from __future__ import annotations

from pathlib import Path

from gtvbench.bench.core.errors import StoreError, why
from gtvbench.bench.files.store import write_atomically
from gtvbench.reports.figures import vector
from gtvbench.reports.page.content import content
from gtvbench.reports.page.sections.collected import Collected
from gtvbench.reports.paper import tables
from gtvbench.reports.run.load import read_run


def write_paper(run: Path, folder: Path) -> Path:
    """Write a run's tables (CSV, LaTeX, Markdown), figures (SVG, PDF), numbers (CSV) and methods text; return `folder`.

    Raises StoreError where a table of the run is missing or damaged, or the folder cannot be written.
    """
    collected = Collected()
    context = content(read_run(run), collected)
    held: dict[str, str | bytes] = {**tables.files(tables.collect(context)), **context["methods"].files()}
    for name, frame in collected.frames.items():
        held[f"numbers/{name}.csv"] = frame.to_csv(index=False, lineterminator="\n")
    for name, draw in collected.figures.items():
        held |= {f"figures/{name}.{kind}": drawn for kind, drawn in vector.files(draw).items()}
    try:
        for name, text in held.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text if isinstance(text, bytes) else text.encode(errors="backslashreplace"))
    except OSError as error:
        raise StoreError(
            f"the folder for the paper cannot be written: {why(error)}", file=folder, remedy="name another folder"
        ) from error
    return folder
