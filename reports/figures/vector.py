"""Matplotlib figures as SVG and PDF, the same bytes from the same figure on every run.

The page's own copy of a figure takes the colours of the page, and its marks tell their case to the pointer and lead to
its page. The files are for papers: plain inks on white, text that can be selected and edited (SVG: text elements; PDF:
embedded TrueType, Type 42), no date, no link.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from gtvbench.reports.figures.canvas import FAINT, GRID, INK, PAPER, Canvas, Mark

#: In force while figures are drawn and written; the salt makes ids in SVG files depend on their content alone.
STYLE = {
    "svg.hashsalt": "gtvbench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 11.4,
    "path.simplify": False,
}

_THEMED = {INK: "currentColor", FAINT: "var(--faint)", GRID: "var(--line)", PAPER: "var(--paper)"}
_WHITE = '<rect id="background" width="100%" height="100%" fill="#ffffff"/>'

#: Where an SVG holds coordinates, which matplotlib writes to a millionth of a point; a thousandth is enough.
_PLACES = re.compile(r'\b(?:d|x|y|transform|points)="[^"]*"')
_FINE = re.compile(r"(\.\d{3})\d+")
# None leaves an entry out: dates would change, versions of the software would travel.
_SVG_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PDF_METADATA = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}


def inline(make: Callable[[], Figure], prefix: str) -> str:
    """A figure as an SVG element for the page: themed colours, ids that no other figure has, scaled by CSS."""
    with _in_style():
        figure = make()
        figure.patch.set_visible(False)
        svg = _svg(figure)
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    for name, marks in (figure.marks if isinstance(figure, Canvas) else {}).items():
        body = _pointed(body, name, marks)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)  # the page's own font
    body = _PLACES.sub(lambda found: _FINE.sub(r"\1", found[0]), body)
    for plain, themed in _THEMED.items():
        body = body.replace(plain, themed)
    return body.strip()


def _pointed(svg: str, name: str, marks: Sequence[Mark]) -> str:
    """Each mark of the line with this id wrapped into a link to its case, with the words that the pointer shows."""
    start = svg.index(f'<g id="{name}">')
    end = svg.index("</g>", svg.index("<use", start))
    waiting = iter(marks)

    def wrapped(use: re.Match[str]) -> str:
        mark = next(waiting)
        title = f"<title>{html.escape(mark.words)}</title>"
        # Not in the order of the Tab key: hundreds of marks, whose values are in a table as well.
        return f'<a href="{html.escape(mark.link)}" tabindex="-1">{title}{use[0]}</a>'

    return svg[:start] + re.sub(r"<use [^>]*/>", wrapped, svg[start:end]) + svg[end:]


def files(make: Callable[[], Figure]) -> dict[str, bytes]:
    """A figure as files for a paper: "svg" and "pdf", on white."""
    with _in_style():
        figure = make()
        figure.patch.set_visible(False)
        plain = _svg(figure)
        start = plain.index(">", plain.index("<svg")) + 1
        figure.patch.set(visible=True, facecolor="#ffffff", edgecolor="none", alpha=None)
        return {"svg": f"{plain[:start]}\n {_WHITE}{plain[start:]}".encode(), "pdf": _pdf(figure)}


@contextmanager
def _in_style() -> Iterator[None]:
    with rc_context(STYLE), warnings.catch_warnings():
        # Names may use letters that the font lacks. In SVG the reader's own fonts show them; PDF shows an empty box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=_SVG_METADATA)
    return buffer.getvalue()


def _pdf(figure: Figure) -> bytes:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # slow to import, and no page needs it

    buffer = io.BytesIO()
    FigureCanvasPdf(figure).print_pdf(buffer, metadata=_PDF_METADATA)
    return buffer.getvalue()
