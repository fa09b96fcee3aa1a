"""Builds the report of a run folder: report/index.html, report/cases/ and report/data/stats.json.

The page is made from the run's tables alone and holds everything it shows: no request leaves it, and it reads the same
without JavaScript. The same tables give the same bytes.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pandas as pd

from gtvbench.bench.core.errors import StoreError
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.page.content import content
from gtvbench.reports.page.sections.collected import Collected
from gtvbench.reports.run.load import FinishedRun, read_run
from gtvbench.reports.text.templating import environment
from gtvbench.reports.viewer.build import case_pages, viewer_section

#: Raised when the same tables give another page, so that finished runs are rendered again.
REPORT_VERSION = 8


def build_report(run: Path) -> Path:
    """Write a run folder's report and return the page's path.

    Every file is replaced whole, the page last. Raises StoreError where a table of the run is missing or damaged, or
    the folder cannot be written; the error names the file and the remedy.
    """
    return write_report(read_run(run), run / "report")


def write_report(run: FinishedRun, target: Path) -> Path:
    """Write the report of a run in memory into a folder; see `build_report`."""
    wide = wide_scores(run.scores)
    page, statistics = render(run, wide)
    try:
        written = {_replace(target / "data" / "stats.json", statistics)}
        written |= {_replace(target / "cases" / name, text) for name, text in case_pages(run, wide)}
        for path in {p for folder in ("data", "cases") for p in (target / folder).rglob("*") if p.is_file()} - written:
            path.unlink()  # of a case that is no longer part of the run, or of an earlier version
        _replace(target / "index.html", page)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written ({error.strerror})",
            file=error.filename or target,
            remedy="make room, or make the folder writable, and start `bench report` on it again",
        ) from error
    return target / "index.html"


def render(run: FinishedRun, wide: pd.DataFrame) -> tuple[str, str]:
    """The page, and stats.json, of a run in memory; `wide` is `wide_scores(run.scores)`."""
    context = content(run, Collected())
    page = environment().get_template("report.html.j2").render({**context, "viewer": viewer_section(run, wide)})
    return page, json.dumps(context["statistics"], indent=1, allow_nan=False) + "\n"


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _replace(path: Path, text: str) -> Path:
    """Write a file whole under another name, then put it in place; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(_encoded(text))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
