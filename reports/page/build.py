"""Builds the report of a run folder: report/index.html and the tables and figures under report/data.

The page is made from the run's tables alone and holds everything it shows: no request leaves it, and it reads the same
without JavaScript. The same tables give the same bytes.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gtvbench.bench.core.errors import StoreError
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.page.content import content
from gtvbench.reports.page.sections.collected import Book
from gtvbench.reports.run.load import Run, read_run
from gtvbench.reports.text.templating import environment, script_json
from gtvbench.reports.viewer.build import INDEX_BYTES, case_pages, viewer_section

#: Raised when the same tables give another page, so that finished runs are rendered again.
REPORT_VERSION = 6

#: Above this size the page goes without interactive figures: the static ones carry the result.
MAX_BYTES = 10_000_000
#: Kept free for the viewer's static pictures and its scripts.
_STILLS_BYTES = 400_000


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
    """Write the report of a run in memory into a folder; see `build_report`."""
    page, data = render(run)
    pages_of_cases = case_pages(run, wide_scores(run.scores))
    try:
        written = {_replace(target / "data" / name, held) for name, held in data.items()}
        written |= {_replace(target / "cases" / name, text) for name, text in pages_of_cases}
        for path in {p for folder in ("data", "cases") for p in (target / folder).rglob("*") if p.is_file()} - written:
            path.unlink()  # of an arm, structure or case that is no longer part of the run
        _replace(target / "index.html", page)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written ({error.strerror})",
            file=error.filename or target,
            remedy="make room, or make the folder writable, and start `bench report` on it again",
        ) from error
    return target / "index.html"


def render(run: Run) -> tuple[str, dict[str, str | bytes]]:
    """The page and the files of report/data (name -> text or bytes) of a run in memory."""
    book = Book()
    context = content(run, book)
    template = environment().get_template("report.html.j2")
    plotly: dict[str, Any] = {}
    if book.specifications:
        plotly = {"figures": Markup(script_json(book.specifications)), "plotly": Markup(get_plotlyjs())}
    bare = len(_encoded(template.render({**context, **plotly})))
    if bare > MAX_BYTES:
        plotly, bare = {}, len(_encoded(template.render(context)))
    wide = wide_scores(run.scores)
    room = max(min(INDEX_BYTES, MAX_BYTES - bare - _STILLS_BYTES), 0)
    while True:
        page = template.render({**context, **plotly, "viewer": viewer_section(run, wide, room)})
        over = len(_encoded(page)) - MAX_BYTES
        if over <= 0 or room == 0:
            return page, book.files
        room = max(room - over - _STILLS_BYTES, 0)  # many small cases: their static pictures took more than was kept


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _replace(path: Path, held: str | bytes) -> Path:
    """Write a file whole under another name, then put it in place; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(held if isinstance(held, bytes) else _encoded(held))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
