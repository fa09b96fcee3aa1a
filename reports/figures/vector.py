"""Figures as files: SVG and PDF of a matplotlib figure, the same bytes from the same figure on every run.

The page's own copy of a figure takes the colours of the page and may link into it; the files are for papers: plain inks
on white, text that can be selected and edited (SVG: text elements; PDF: embedded TrueType, Type 42), no date, no link.
"""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager, rc_context
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_FONT, _SLIM = "DejaVu Sans", "gtvbench Sans"

#: In force while figures are drawn and written; the salt makes ids in SVG files depend on their content alone.
STYLE = {
    "svg.hashsalt": "gtvbench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "font.family": "sans-serif",
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 11.4,
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
    with rc_context({**STYLE, "font.sans-serif": [_slim_font(), _FONT]}), warnings.catch_warnings():
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


@cache
def _slim_font() -> str:
    """Name of a copy of DejaVu Sans that holds what figures use and no tables of layout.

    Every PDF takes its letters out of the font file, and reading the whole one costs more than all the rest. Where the
    copy cannot be written, the whole font serves.
    """
    try:
        _add_slim_font()
    except OSError:
        return _FONT
    return _SLIM


def _add_slim_font() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gtvbench-font-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = subset.Options()
    options.layout_features, options.recalc_timestamp, options.notdef_outline = [], False, True
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "kern", "FFTM"]
    with TTFont(font_manager.findfont(_FONT), recalcTimestamp=False) as font:
        chooser = subset.Subsetter(options)
        # Latin, Greek, punctuation, arrows and operators; anything else falls back to the whole font.
        ranges = ((0x20, 0x250), (0x370, 0x400), (0x2010, 0x2070), (0x2190, 0x2300))
        chooser.populate(unicodes=[code for first, end in ranges for code in range(first, end)])
        chooser.subset(font)
        for record in font["name"].names:
            if record.nameID in (1, 4, 6, 16):
                record.string = _SLIM.replace(" ", "") if record.nameID == 6 else _SLIM
        font.save(folder / "slim.ttf")
    font_manager.fontManager.addfont(folder / "slim.ttf")
