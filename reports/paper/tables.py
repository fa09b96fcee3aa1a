r"""Tables of the page for a paper: LaTeX (booktabs), Markdown (GitHub's pipes) and CSV, cell for cell.

Cells come from data and names: each is made visible (text.py) and escaped for its format. A LaTeX table needs the
packages of PACKAGES, all of which every TeX distribution has.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

from gtvbench.reports.tables.table import Cell, Table
from gtvbench.reports.text import markdown
from gtvbench.reports.text.latex import escaped
from gtvbench.reports.text.numbers import ABSENT, visible

PACKAGES = ("array", "booktabs", "graphicx", "longtable", "rotating")

#: Above so many rows a table is broken over pages.
MAX_ROWS = 40
#: Estimated width in characters up to which a table fits a page of text at \small, at \footnotesize, and scaled down;
#: a wider one is turned onto its side.
SMALL, FOOTNOTE, SCALED = 80, 95, 126
#: Characters above which a column of words, or a head, is broken into lines of this width.
WORDY, HEAD = 26, 12

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

    Up to MAX_ROWS rows it floats; only where it is wide it is set smaller, scaled down to the width, or turned.
    A longer one is a longtable, which breaks over pages and cannot be scaled.
    """
    rows = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    head = [*_group_rows(table), " & ".join(_latex_head(table, k) for k in range(len(table.head))) + r" \\"]
    caption = f"\\caption{{{escaped(table.caption)}}}\\label{{tab:{_identifier(table.id)}}}"
    widths, total = _widths(table), _total_width(table)
    layout = "".join(_column(table, k, width) for k, width in enumerate(widths))
    if len(rows) > MAX_ROWS:
        return _long(layout, head, rows, caption, total)
    tabular = [f"\\begin{{tabular}}{{@{{}}{layout}@{{}}}}", r"\toprule", *head, r"\midrule", *rows, r"\bottomrule"]
    tabular.append(r"\end{tabular}")
    if total > FOOTNOTE:
        tabular = [r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{%", *tabular, "}"]
    size = r"\small" if total <= SMALL else r"\footnotesize"
    begin, end = (r"\begin{table}[htbp]", r"\end{table}") if total <= SCALED else _SIDEWAYS
    return "\n".join([begin, r"\centering", caption, size, *tabular, end]) + "\n"


_SIDEWAYS = (r"\begin{sidewaystable}", r"\end{sidewaystable}")


def _long(layout: str, head: list[str], rows: list[str], caption: str, total: int) -> str:
    columns = head[-1].count(" & ") + 1
    size, gap = (r"\footnotesize", 4) if total <= FOOTNOTE else (r"\scriptsize", 2)
    lines = [
        "{" + size, f"\\setlength{{\\tabcolsep}}{{{gap}pt}}", f"\\begin{{longtable}}{{@{{}}{layout}@{{}}}}",
        caption + r" \\", r"\toprule", *head, r"\midrule", r"\endfirsthead", r"\toprule", *head, r"\midrule",
        r"\endhead", rf"\midrule \multicolumn{{{columns}}}{{r@{{}}}}{{(continued)}} \\", r"\endfoot", r"\bottomrule",
        r"\endlastfoot", *rows, r"\end{longtable}", "}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _group_rows(table: Table) -> list[str]:
    """The row of group heads and the rules below them."""
    if not table.groups:
        return []
    cells, rules, first = [], [], 1
    for label, span in table.groups:
        cells.append(f"\\multicolumn{{{span}}}{{c}}{{{escaped(label)}}}")
        if label:
            rules.append(f"\\cmidrule(lr){{{first}-{first + span - 1}}}")
        first += span
    return [" & ".join(cells) + r" \\", " ".join(rules)] if rules else []


def _column(table: Table, place: int, width: int) -> str:
    if _wordy(table, place) and width > WORDY:
        return rf">{{\raggedright\arraybackslash}}p{{{0.5 * WORDY:.0f}em}}"
    return "l" if place == 0 or _wordy(table, place) else "r"


def _latex_cell(cell: Cell) -> str:
    text = escaped(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong else text


def _latex_head(table: Table, place: int) -> str:
    lines = [escaped(line) for line in _lines(table.head[place])]
    if len(lines) == 1:
        return lines[0]
    stacked = r"\\".join(lines)
    return rf"\shortstack[{_column(table, place, 0)}]{{{stacked}}}"


def _lines(head: str) -> list[str]:
    """A head in lines, broken after blanks, dots, hyphens and underscores."""
    found = [""]
    for piece in re.findall(r"[^ ._-]*[ ._-]?", visible(head))[:-1]:
        if found[-1] and len((found[-1] + piece).rstrip()) > HEAD:
            found.append("")
        found[-1] += piece
    return [line.rstrip() for line in found]


def _widths(table: Table) -> list[int]:
    """Characters of the widest line of each column."""
    found = [max(len(line) for line in _lines(text)) for text in table.head]
    for row in table.rows:
        found = [max(width, len(visible(cell.text))) for width, cell in zip(found, row, strict=True)]
    return found


def _total_width(table: Table) -> int:
    """Characters of a whole row, two between columns; a group's label can be wider than its columns."""
    widths = [min(width, WORDY) if _wordy(table, k) else width for k, width in enumerate(_widths(table))]
    groups, first, total = table.groups or [("", 1) for _ in widths], 0, 0
    for label, span in groups:
        total += max(sum(widths[first : first + span]) + 2 * span, len(visible(label)) + 2)
        first += span
    return total


def _identifier(text: str) -> str:
    """A name for labels and files."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-") or "table"


# ---- Markdown


def as_markdown(table: Table) -> str:
    """A table with pipes as GitHub has it, its caption above; a group's head stands before those of its columns."""
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    head = [markdown.escaped(text) for text in flat_head(table)]
    widths = [max(3, *(len(row[k]) for row in (head, *rows))) for k in range(len(head))]
    left = [k == 0 or _wordy(table, k) for k in range(len(head))]
    rule = [":" + "-" * (w - 1) if to_left else "-" * (w - 1) + ":" for w, to_left in zip(widths, left, strict=True)]
    lines = [f"**{markdown.escaped(table.caption)}**", ""]
    for row in (head, rule, *rows):
        cells = [
            text.ljust(w) if to_left else text.rjust(w) for text, w, to_left in zip(row, widths, left, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = markdown.escaped(cell.text)
    return f"**{text}**" if cell.strong else text


def flat_head(table: Table) -> list[str]:
    """Heads in one row: a group's label, a colon, the column's own."""
    labels = [label for label, span in table.groups for _ in range(span)] or [""] * len(table.head)
    return [f"{label}: {text}" if label else text for label, text in zip(labels, table.head, strict=True)]


# ---- CSV


def as_csv(table: Table) -> str:
    """A table as the page shows it, comma-separated, UTF-8; numbers with an ASCII minus, absent ones empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it. Full precision is in the CSV file
    that the page links below the table.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_csv_cell(text) for text in flat_head(table)])
    writer.writerows([[_csv_cell(cell.text) for cell in row] for row in table.rows])
    return buffer.getvalue()


def _csv_cell(text: str) -> str:
    shown = visible(text).replace("\u2212", "-")
    if shown == ABSENT:
        return ""
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown


def _wordy(table: Table, place: int) -> bool:
    return any(row[place].wordy for row in table.rows)
