"""Temporary."""

import io
import warnings
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG

STYLE = {
    "svg.hashsalt": "gtvbench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,
    "font.size": 9.5,
    "path.simplify": False,
    "pdf.fonttype": 42,
}


@dataclass
class D:
    svg: bytes
    pdf: bytes


def draw(f):
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        fig = f()
        b = io.BytesIO()
        FigureCanvasSVG(fig).print_svg(b, metadata={"Date": None, "Creator": None})
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        p = io.BytesIO()
        FigureCanvasPdf(fig).print_pdf(p, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return D(b.getvalue(), p.getvalue())
