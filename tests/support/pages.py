"""The report's page for tests that read it: made without its drawings, and parsed."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.page.content import content
from gtvbench.reports.page.sections.collected import Collected, Shown
from gtvbench.reports.run.load import FinishedRun, read_run
from gtvbench.reports.tables.table import Table
from gtvbench.reports.text.templating import environment
from gtvbench.reports.viewer.build import viewer_section

_VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}


class Undrawn(Collected):
    """Figures by name, which nobody draws: they are most of the time that a page takes."""

    def figure(
        self, name: str, title: str, reading: str, draw: Callable[[], Figure], table: Table | None = None
    ) -> Shown:
        self.figures[name] = draw
        return Shown(name, title, reading, Markup(""), table)


def page_of(run: FinishedRun | Path) -> str:
    """The page of a run or run folder, whole but for its drawings."""
    read = read_run(run) if isinstance(run, Path) else run
    viewer = viewer_section(read, wide_scores(read.scores))
    template = environment().get_template("report.html.j2")
    return template.render({**content(read, Undrawn()), "viewer": viewer})


def text_of(run: FinishedRun | Path) -> str:
    """What a reader reads on the page of a run or run folder."""
    return Reader(page_of(run)).text


class Reader(HTMLParser):
    """Collects ids, addresses and text, and fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, self._open
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "xlink:href")
        ]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.words.append(data)
