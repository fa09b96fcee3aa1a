"""A matplotlib figure as SVG and PDF whose bytes depend on the figure alone: no dates, no random ids."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_FONT = "DejaVu Sans"
_SLIM = "gtvbench Sans"

#: Text stays text (selectable, searchable); names may hold a dollar sign, so nothing is read as mathematics.
_STYLE = {
    "svg.hashsalt": "gtvbench", "svg.fonttype": "none", "pdf.fonttype": 42, "font.family": "sans-serif",
    "text.parse_math": False, "font.size": 11.4, "path.simplify": False,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """The two files of a figure."""

    svg: bytes
    pdf: bytes


def draw(make: Callable[[], Figure]) -> Drawn:
    """Let `make` build a figure in the report's style, and save it."""
    with mpl.rc_context({**_STYLE, "font.sans-serif": [_slim_font(), _FONT]}), warnings.catch_warnings():
        # Names may use letters that the measuring font lacks; the reader's browser has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = make()
        svg, pdf = io.BytesIO(), io.BytesIO()
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return Drawn(svg.getvalue(), pdf.getvalue())


@cache
def _slim_font() -> str:
    """Name of a copy of DejaVu Sans that holds what figures use and no tables of layout.

    Every PDF takes its letters out of the font file, and reading the whole one costs more than all the rest.
    """
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
    return _SLIM


@cache
def _slim_font() -> str:
    """Name of a copy of DejaVu Sans that holds what figures use and no tables of layout.

    Every PDF takes its letters out of the font file, and reading the whole one costs more than all the rest.
    """
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
    return _SLIM
