from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gtvbench.reports.figures import vector
from gtvbench.reports.figures.canvas import Canvas

_SCRIPT = """
import hashlib, sys
sys.path.insert(0, {folder!r})
from test_vector import parts
print(*[hashlib.sha256(part).hexdigest() for part in parts()])
"""


def make() -> Canvas:
    """Lines, marks, a shaded area, names with several scripts, and marks of cases."""
    figure = Canvas(220)
    axes = figure.bare_axes(40, 10, 10, 40)
    axes.plot([0, 1, 2], [0.5, 0.8, 0.7], "o-", label="nnunet-box \u2212 nnunet")
    axes.fill_between([0, 2], [0.4, 0.4], [0.6, 0.6], alpha=0.2)
    axes.set_xlabel("DSC, $not_math$ ± Größe")
    axes.legend()
    figure.plot_marks(axes, [(1, 0.6), (2, 0.5)], ["PHA-001: <0.6>", "b"], ["PHA-001", "PHA-002"], marker="x")
    return figure


def parts() -> list[bytes]:
    return [vector.inline(make, "p").encode(), *vector.files(make).values()]


def test_the_same_figure_gives_the_same_bytes_in_another_process() -> None:
    script = _SCRIPT.format(folder=str(Path(__file__).parent))
    own = [hashlib.sha256(part).hexdigest() for part in parts()]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == own


def test_the_svg_file_has_a_white_ground_text_no_link_and_no_date() -> None:
    drawn = vector.files(make)
    root = ET.fromstring(drawn["svg"])
    assert root[0].tag.endswith("rect") and root[0].get("fill") == "#ffffff"
    text = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert "DSC, $not_math$ ± Größe" in text
    dates = (b"CreationDate", b"ModDate", b"Producer", b"Creator", b"dc:date", b"matplotlib v", b"Matplotlib")
    for content in drawn.values():
        assert not [word for word in (b"PHA-001", *dates) if word in content]


def test_the_page_s_own_copy_has_marks_that_link_and_the_ground_of_the_page() -> None:
    inline = vector.inline(make, "p")
    assert '<a href="cases/PHA-001.html" tabindex="-1"><title>PHA-001: &lt;0.6&gt;</title><use ' in inline
    assert inline.count("<a ") == 2 and 'id="background"' not in inline and "#16181b" not in inline


def test_fonts_are_embedded_as_truetype_and_letters_that_they_lack_break_nothing() -> None:
    def named() -> Figure:
        figure = Figure(figsize=(3, 2))
        figure.text(0.1, 0.5, "肿瘤 \u05d0 \U0001f600")
        return figure

    drawn = vector.files(named)
    assert "肿瘤".encode() in drawn["svg"]
    for pdf in (drawn["pdf"], vector.files(make)["pdf"]):
        assert pdf.startswith(b"%PDF-")
        assert b"/CIDFontType2" in pdf
        assert re.search(rb"/FontFile2 \d+ 0 R", pdf)
        assert b"/Type3" not in pdf


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_the_pdf_opens_and_its_text_can_be_selected(tmp_path: Path) -> None:
    path = tmp_path / "figure.pdf"
    path.write_bytes(vector.files(make)["pdf"])
    done = subprocess.run(["pdftotext", str(path), "-"], capture_output=True, text=True, check=True)
    assert "nnunet-box \u2212 nnunet" in done.stdout
    assert "DSC, $not_math$ ± Größe" in done.stdout
