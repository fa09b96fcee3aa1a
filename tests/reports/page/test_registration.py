"""How the page tells of registration: only where there was any, worst first, robust against odd records."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import page_of
from PIL import Image
from run_writer import PLANS, RunWriter

from gtvbench.bench.files.store import Store
from gtvbench.reports.page.sections.registration import registration_frame
from gtvbench.reports.run.load import read_run


def facts(after: float, folding: float = 0.0, status: str = "registered") -> dict[str, Any]:
    return {
        "status": status, "reference": "CT", "by": "structure",
        "stages": ["rigid", "bspline"] if status == "registered" else [],
        "similarity": {"headers": 0.2, "rigid": 0.4, "bspline": after},
        "displacement_mm": {"mean": 6.04, "largest": 21.3}, "jacobian": {"smallest": 0.83, "largest": 1.2},
        "folding": folding, "seconds": 17.2,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one patient and one arm: what is told of registration depends on neither."""
    writer = RunWriter(patients=1, structures=("GTV",), plans=PLANS[:1])
    folder: Path = writer.write(tmp_path / "run")
    return folder


def page_with(run: Path, registration: Any, **changes: Any) -> str:
    path = run / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"registration": registration} | changes))
    return page_of(run)


def rows(page: str) -> list[list[str]]:
    """Case and modality of each row of the table."""
    table = page[page.index('<table id="registration"') :]
    table = table[: table.index("</table>")].replace("<wbr>", "").replace("<bdi>", "").replace("</bdi>", "")
    found = re.findall(r'<th scope="row">(.*?)</th>\s*<td[^>]*>(.*?)</td>', table, re.DOTALL)
    return [list(row) for row in found]


def picture(run: Path, case: str, size: int = 40) -> bytes:
    """A picture of noise, which compresses little."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(noise).save(stream, "WEBP", quality=80)
    path = Store(run).checkerboard(case, "T1w")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def boards(page: str) -> list[str]:
    captions = [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
    return [caption for caption in captions if caption.endswith(": T1w on CT")]


def words(page: str) -> str:
    return re.sub(r"(<[^>]+>|\s)+", " ", page)


def test_images_that_fold_come_first_then_those_that_gained_least(run: Path) -> None:
    page = page_with(
        run,
        {
            "case-a": {"T1w": facts(0.9), "T2w": {"status": "shared frame of reference"}},
            "case-b": {"T1w": facts(0.5) | {"stages": ["rigid"]}, "T2w": facts(0.7, folding=0.02)},
            "case-c": {"T1w": facts(0.1, status="kept as the headers say")},
        },
    )
    assert "3 images of 3 patients registered to the reference; 1 trusted because they share" in page
    assert "1 left as the headers say" in page
    assert "The deformation folds in 1 image." in page
    assert rows(page) == [["case-b", "T2w"], ["case-b", "T1w"], ["case-a", "T1w"]]
    frame = registration_frame(read_run(run))
    assert len(frame) == 5
    assert frame.set_index(["case", "modality"]).loc[("case-a", "T1w"), "after"] == 0.9
    text = words(page)
    assert "T1w and T2w images were registered to the reference image by descriptors of local structure" in text
    assert "That was so for 3 images of 5, with the B-spline for 2; 1 shared the frame of reference" in text
    assert "for 1 it failed, and headers were trusted" in text
    assert "registration of the modalities, " not in text
    assert "10.1007/978-3-642-40811-3_24" in text


def test_an_image_without_any_overlap_before_is_looked_at_first(run: Path) -> None:
    lost = facts(0.9)
    lost["similarity"]["headers"] = None
    cases = {"case-a": {"T1w": facts(0.3)}, "case-b": {"T1w": lost}, "case-c": {"T1w": facts(0.5)}}
    assert [case for case, _ in rows(page_with(run, cases))] == ["case-b", "case-a", "case-c"]


def test_pictures_are_on_the_page_in_the_order_of_the_table_and_broken_ones_are_not(run: Path) -> None:
    content = picture(run, "case-a")
    picture(run, "case-b")
    broken = picture(run, "case-c")
    Store(run).checkerboard("case-c", "T1w").write_bytes(broken[:-10])
    page = page_with(run, {"case-a": {"T1w": facts(0.9)}, "case-b": {"T1w": facts(0.5)}, "case-c": {"T1w": facts(0.3)}})
    assert boards(page) == ["case-b: T1w on CT", "case-a: T1w on CT"]
    assert base64.b64encode(content).decode() in page
    assert "Pictures of the registration (2)" in page


def test_of_many_patients_few_are_on_the_page_and_large_pictures_do_not_make_it_heavy(run: Path) -> None:
    for k in range(30):
        picture(run, f"case-{k:03d}")
    page = page_with(run, {f"case-{k:03d}": {"T1w": facts(0.5 + k / 1000)} for k in range(40)})
    assert len(rows(page)) == 12
    assert len(boards(page)) == 24
    assert "Pictures of the registration (24 of 30)" in page
    assert "the others lie in the run folder, in pictures/registration" in page
    sizes = [len(picture(run, f"case-{k:03d}", size=900)) for k in range(5)]
    assert sum(sizes) > 1_500_000 > sizes[0]
    page = page_with(run, {f"case-{k:03d}": {"T1w": facts(0.5 + k / 1000)} for k in range(5)})
    assert len(boards(page)) == 1_500_000 // sizes[0]


def test_where_nothing_was_registered_the_page_does_not_speak_of_it_and_authors_must(run: Path) -> None:
    page = page_with(run, {"case-a": {"T2w": {"status": "shared frame of reference"}}}, synthetic=False)
    text = words(page)
    assert "registration of the modalities, who drew" in text
    assert "registered to the reference image by" not in text
    page = page_with(run, {})
    assert "Registration to the reference image" not in page
    assert 'id="registration"' not in page
