"""How the page tells of registration: only where there was any, worst first, robust against odd records."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gtvbench.bench.files.store import Store
from gtvbench.reports.page.build import build_report
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


def page_with(run: Path, registration: Any) -> str:
    path = run / "provenance.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"registration": registration}))
    return build_report(run).read_text()


def test_a_run_without_registration_does_not_speak_of_it(run_folder: Path) -> None:
    page = build_report(run_folder).read_text()
    assert "Registration to the reference image" not in page
    assert 'id="registration"' not in page


def test_images_that_fold_come_first_then_those_that_gained_least(run_folder: Path) -> None:
    page = page_with(run_folder, {
        "case-a": {"T1w": facts(0.9), "T2w": {"status": "shared frame of reference"}},
        "case-b": {"T1w": facts(0.5), "T2w": facts(0.7, folding=0.02)},
        "case-c": {"T1w": facts(0.1, status="kept as the headers say")},
    })  # fmt: skip
    assert "3 images of 3 patients registered to the reference; 1 trusted because they share" in page
    assert "1 left as the headers say" in page
    assert "The deformation folds in 1 image." in page
    assert rows(page) == [["case-b", "T2w"], ["case-b", "T1w"], ["case-a", "T1w"]]
    frame = registration_frame(read_run(run_folder))
    assert len(frame) == 5
    assert frame.set_index(["case", "modality"]).loc[("case-a", "T1w"), "after"] == 0.9


def rows(page: str) -> list[list[str]]:
    """Case and modality of each row of the table."""
    table = page[page.index('<table id="registration"') :]
    table = table[: table.index("</table>")].replace("<wbr>", "").replace("<bdi>", "").replace("</bdi>", "")
    found = re.findall(r'<th scope="row">(.*?)</th>\s*<td[^>]*>(.*?)</td>', table, re.DOTALL)
    return [list(row) for row in found]


def picture(run: Path, case: str, modality: str = "T1w", size: int = 40) -> bytes:
    """A picture of noise, which compresses little."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(noise).save(stream, "WEBP", quality=80)
    path = Store(run).checkerboard(case, modality)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def boards(page: str) -> list[str]:
    captions = [re.sub(r"<[^>]+>", "", text) for text in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
    return [caption for caption in captions if caption.endswith(": T1w on CT")]


def test_pictures_are_on_the_page_in_the_order_of_the_table_and_broken_ones_are_not(run_folder: Path) -> None:
    content = picture(run_folder, "case-a")
    picture(run_folder, "case-b")
    broken = picture(run_folder, "case-c")
    Store(run_folder).checkerboard("case-c", "T1w").write_bytes(broken[:-10])
    page = page_with(run_folder, {
        "case-a": {"T1w": facts(0.9)}, "case-b": {"T1w": facts(0.5)}, "case-c": {"T1w": facts(0.3)},
    })  # fmt: skip
    assert boards(page) == ["case-b: T1w on CT", "case-a: T1w on CT"]
    assert base64.b64encode(content).decode() in page
    assert "Pictures of the registration (2)" in page


def test_of_many_patients_few_are_on_the_page(run_folder: Path) -> None:
    for k in range(30):
        picture(run_folder, f"case-{k:03d}")
    page = page_with(run_folder, {f"case-{k:03d}": {"T1w": facts(0.5 + k / 1000)} for k in range(40)})
    assert len(rows(page)) == 12
    assert len(boards(page)) == 24
    assert "Pictures of the registration (24 of 30)" in page
    assert "the others lie in the run folder, in pictures/registration" in page


def test_large_pictures_do_not_make_the_page_heavy(run_folder: Path) -> None:
    sizes = [len(picture(run_folder, f"case-{k}", size=900)) for k in range(5)]
    assert sum(sizes) > 1_500_000 > sizes[0]
    page = page_with(run_folder, {f"case-{k}": {"T1w": facts(0.5 + k / 1000)} for k in range(5)})
    assert len(boards(page)) == 1_500_000 // sizes[0]


def test_an_image_without_any_overlap_before_is_looked_at_first(run_folder: Path) -> None:
    lost = facts(0.9)
    lost["similarity"]["headers"] = None
    cases = {"case-a": {"T1w": facts(0.3)}, "case-b": {"T1w": lost}, "case-c": {"T1w": facts(0.5)}}
    assert [case for case, _ in rows(page_with(run_folder, cases))] == ["case-b", "case-a", "case-c"]


def words(page: str) -> str:
    return re.sub(r"(<[^>]+>|\s)+", " ", page)


def test_the_methods_text_tells_how_images_were_registered(run_folder: Path) -> None:
    text = words(page_with(run_folder, {
        "case-a": {"T1w": facts(0.9), "T2w": {"status": "shared frame of reference"}},
        "case-b": {"T1w": facts(0.5) | {"stages": ["rigid"]}, "T2w": facts(0.1, status="kept as the headers say")},
    }))  # fmt: skip
    assert "T1w images were registered to the reference image by descriptors of local structure" in text
    assert "That was so for 2 images of 4, with the B-spline for 1; 1 shared the frame of reference" in text
    assert "for 1 it failed, and headers were trusted" in text
    assert "registration of the modalities, " not in text
    assert "10.1007/978-3-642-40811-3_24" in text


def test_authors_must_tell_of_registration_where_none_was_done(run_folder: Path) -> None:
    path = run_folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"synthetic": False}))
    text = words(page_with(run_folder, {"case-a": {"T2w": {"status": "shared frame of reference"}}}))
    assert "registration of the modalities, who drew" in text
    assert "registered to the reference image by" not in text
