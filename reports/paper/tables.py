r"""Tables of the page for a paper: LaTeX (booktabs), Markdown (GitHub's pipes) and CSV, cell for cell.

Cells come from data and names: invisible characters are spelt out, and each is escaped for its format. A LaTeX table
needs the packages of PACKAGES, all of which every TeX distribution has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import pandas as pd

from gtvbench.reports.tables.table import Cell, Table
from gtvbench.reports.text import markdown
from gtvbench.reports.text.latex import escaped
from gtvbench.reports.text.numbers import ABSENT, visible

PACKAGES = ("array", "booktabs", "graphicx", "longtable")

#: Above so many rows a table is broken over pages.
MAX_ROWS = 40
#: Characters above which a column of words is broken into lines of this width.
WORDY = 26
#: Scales a table down to the width of the text where it is wider.
_FITTED = r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%"

_FORMULA = re.compile(r"[=+\-@]")
_NUMBER = re.compile(r"[+-]\d[\d.]*(?: (?:±|to) [+-]?\d[\d.]*)?(?: ?[%A-Za-z]{1,4})?")


def collect(content: object) -> list[Table]:
    """Every table inside nested mappings, sequences and dataclasses, in the order of the page, each id once."""
    found: dict[str, Table] = {}
    for table in _walk(content):
        if table.rows:
            found.setdefault(table.id, table)
    return list(found.values())


def _walk(content: object) -> Iterator[Table]:
    if isinstance(content, Table):
        yield content
        return
    parts: Iterable[object] = ()
    if isinstance(content, Mapping):
        parts = content.values()
    elif isinstance(content, list | tuple):
        parts = content
    elif is_dataclass(content) and not isinstance(content, type):
        parts = [getattr(content, field.name) for field in fields(content)]
    for part in parts:
        yield from _walk(part)


def files(tables: Sequence[Table]) -> dict[str, str]:
    """tables/<id>.tex, .md and .csv of each table, and all of them in tables.tex and tables.md."""
    found = {"tables.tex": latex_file(tables), "tables.md": "\n".join(as_markdown(table) for table in tables)}
    for table in tables:
        name = f"tables/{_identifier(table.id)}"
        found |= {
            f"{name}.tex": _NEEDS + as_latex(table),
            f"{name}.md": as_markdown(table),
            f"{name}.csv": as_csv(table),
        }
    return found


# ---- LaTeX

_NEEDS = f"% Needs \\usepackage{{{','.join(PACKAGES)}}}\n"


def latex_file(tables: Sequence[Table]) -> str:
    r"""All tables, to be \input into a paper."""
    return _NEEDS + "\n".join(as_latex(table) for table in tables)


def as_latex(table: Table) -> str:
    r"""A table as LaTeX: booktabs rules, group heads over their columns, caption, and the label tab:<id>.

    Up to MAX_ROWS rows it floats, scaled down to the width of the text; a longer one is a longtable.
    """
    cells = [[rf"\textbf{{{escaped(c.text)}}}" if c.strong else escaped(c.text) for c in row] for row in table.rows]
    heads = [escaped(text) for text in table.head]
    columns: pd.Index = pd.Index(heads)
    if table.groups:
        columns = pd.MultiIndex.from_arrays([[escaped(label) for label in _labels(table)], heads])
    frame, layout = pd.DataFrame(cells, columns=columns), "".join(_column(table, k) for k in range(len(heads)))
    caption, label = escaped(table.caption), f"tab:{_identifier(table.id)}"
    long = len(table.rows) > MAX_ROWS
    text = frame.to_latex(
        index=False, escape=False, column_format=layout, multicolumn_format="c", longtable=long,
        caption=caption if long else None, label=label if long else None,
    )  # fmt: skip
    if long:
        return text
    lines = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{caption}}}\label{{{label}}}", _FITTED]
    return "\n".join([*lines, text + "}", r"\end{table}"]) + "\n"


def _column(table: Table, place: int) -> str:
    wordy = _wordy(table, place)
    if wordy and any(len(row[place].text) > WORDY for row in table.rows):
        return rf">{{\raggedright\arraybackslash}}p{{{0.5 * WORDY:.0f}em}}"
    return "l" if place == 0 or wordy else "r"


def _labels(table: Table) -> list[str]:
    """The group's label of each column."""
    return [label for label, span in table.groups for _ in range(span)]


def _identifier(text: str) -> str:
    """A name for labels and files."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-") or "table"


# ---- Markdown and CSV


def as_markdown(table: Table) -> str:
    """A table with pipes as GitHub has it, its caption above; a group's head stands before those of its columns."""
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    head = [markdown.escaped(text) for text in flat_head(table)]
    rule = [":--" if k == 0 or _wordy(table, k) else "--:" for k in range(len(head))]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
    return "\n".join([f"**{markdown.escaped(table.caption)}**", "", *lines]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = markdown.escaped(cell.text)
    return f"**{text}**" if cell.strong else text


def flat_head(table: Table) -> list[str]:
    """Heads in one row: a group's label, a colon, the column's own."""
    labels = _labels(table) or [""] * len(table.head)
    return [f"{label}: {text}" if label else text for label, text in zip(labels, table.head, strict=True)]


def as_csv(table: Table) -> str:
    """A table as the page shows it, comma-separated, UTF-8; numbers with an ASCII minus, absent ones empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it. Full precision is in the CSV files
    of `numbers`.
    """
    rows = [[_csv_cell(cell.text) for cell in row] for row in table.rows]
    head = [_csv_cell(text) for text in flat_head(table)]
    return pd.DataFrame(rows, columns=head).to_csv(index=False, lineterminator="\n")


def _csv_cell(text: str) -> str:
    shown = visible(text).replace("\u2212", "-")
    if shown == ABSENT:
        return ""
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown


def _wordy(table: Table, place: int) -> bool:
    return any(row[place].wordy for row in table.rows)
