"""What gathers while the page's sections are made: files of report/data and figures in their two forms."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from gtvbench.reports.figures import static, vector
from gtvbench.reports.tables.table import Table

#: CSV files up to this size travel inside the page; larger ones are linked under report/data.
MAX_INLINE_CSV = 32_000


@dataclass(frozen=True)
class Shown:
    """A figure of the page: `svg` is its static form, `height` (px) that of the interactive one, None without one."""

    id: str
    title: str
    reading: str
    svg: Markup
    height: int | None = None
    table: Table | None = None
    csv: str | None = None


@dataclass
class Book:
    """Files of report/data (name -> text or bytes), and the specifications of the interactive figures."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    specifications: list[dict[str, Any]] = field(default_factory=list)

    def frame(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Add a table of numbers as CSV."""
        self.files[f"{name}.csv"] = frame.to_csv(index=False, lineterminator="\n")
        return frame

    def parquet(self, name: str, frame: pd.DataFrame) -> None:
        """Add a table of numbers as Parquet."""
        held = io.BytesIO()
        frame.to_parquet(held, index=False)
        self.files[f"{name}.parquet"] = held.getvalue()

    def figure(
        self,
        name: str,
        title: str,
        reading: str,
        draw: Callable[[], Figure],
        live: Mapping[str, Any] | None = None,
        table: Table | None = None,
        csv: str | None = None,
    ) -> Shown:
        """Add a figure as SVG and PDF, and its interactive form `live` where it has one; `csv` names its numbers."""
        drawn = vector.draw(draw)
        self.files |= {f"{name}.svg": drawn.svg, f"{name}.pdf": drawn.pdf}
        if live is not None:
            self.specifications.append(dict(live))
        height = None if live is None else int(live["layout"]["height"])
        return Shown(name, title, reading, Markup(static.inline(drawn.inline.decode(), name)), height, table, csv)

    def links(self) -> dict[str, str]:
        """Address of every CSV file: inside the page where it is small."""
        return {name: _link(name, content) for name, content in self.files.items() if name.endswith(".csv")}


def _link(name: str, content: str | bytes) -> str:
    raw = content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
    if len(raw) > MAX_INLINE_CSV:
        return f"data/{name}"
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(raw).decode()}"
