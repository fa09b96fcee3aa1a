"""Figures as files: SVG and PDF of a matplotlib figure, the same bytes from the same figure on every run.

The page's own copy of a figure takes the colours of the page and may link into it; the files are for papers: plain inks
on white, text that can be selected and edited (SVG: text elements; PDF: embedded TrueType, Type 42), no date, no link.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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
    "font.size": 9.5,
    "path.simplify": False,
}

_WHITE = '<rect id="background" width="100%" height="100%" fill="#ffffff"/>'

# None leaves an entry out: dates would change, versions of the software would travel.
_SVG_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PDF_METADATA = {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None}


@dataclass(frozen=True)
class Drawn:
    """A figure: `inline` is the SVG document that the page makes its own, `svg` and `pdf` are the files."""

    inline: bytes
    svg: bytes
    pdf: bytes


def draw(make: Callable[[], Figure]) -> Drawn:
    """Make a figure in STYLE and write it; `make` gets no figure that another call has drawn on."""
    with _in_style():
        return _written(make())


def save(figure: Figure) -> dict[str, bytes]:
    """The files of a figure made elsewhere: "svg" and "pdf". Afterwards its links are gone and its ground is white."""
    with _in_style():
        drawn = _written(figure)
    return {"svg": drawn.svg, "pdf": drawn.pdf}


@contextmanager
def _in_style() -> Iterator[None]:
    with rc_context(STYLE), warnings.catch_warnings():
        # Names may use letters that the font lacks. In SVG the reader's own fonts show them; PDF shows an empty box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _written(figure: Figure) -> Drawn:
    figure.patch.set_visible(False)
    inline = _svg(figure)
    linked = [artist for artist in figure.findobj() if artist.get_url()]
    for artist in linked:
        artist.set_url(None)  # the links lead from the page to its cases; from a file in a paper they lead nowhere
    plain = _svg(figure) if linked else inline
    start = plain.index(">", plain.index("<svg")) + 1
    figure.patch.set(visible=True, facecolor="#ffffff", edgecolor="none", alpha=None)
    return Drawn(inline.encode(), f"{plain[:start]}\n {_WHITE}{plain[start:]}".encode(), _pdf(figure))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata=_SVG_METADATA)
    return buffer.getvalue()


def _pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasPdf(figure).print_pdf(buffer, metadata=_PDF_METADATA)
    return buffer.getvalue()
