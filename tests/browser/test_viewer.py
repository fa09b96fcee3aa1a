"""The case viewer as a reader drives it: by keyboard, by wheel and by mouse, on pages of a real run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from gtvbench.bench.files.progress import Display
from gtvbench.bench.run.run import Run
from gtvbench.bench.study.file import Study
from gtvbench.reports.analysis import scores
from gtvbench.reports.run.load import read_run
from gtvbench.reports.text import templating
from gtvbench.reports.viewer import build

Open = Callable[..., Any]  # the fixture `visit` of conftest.py


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of two phantom patients: two arms with masks, and one whose masks are missing."""
    folder = tmp_path_factory.mktemp("viewer")
    study = Study.model_validate(
        {
            "study": "small", "seed": 11,
            "dataset": {"source": "phantom", "patients": 4, "shape": [12, 48, 48], "spacing": [8.0, 4.0, 4.0]},
            "structures": {"GTV-T": 1, "GTV-N": 2},
            "split": {"counts": {"train": 1, "validation": 1, "test": 2}},
            "methods": {"theirs": {"method": "predictions", "folder": "nowhere"}},
        }
    )  # fmt: skip
    Run(study, folder, folder / "run", ["box-fill", "box-ellipse", "theirs"], Display("quiet")).execute()
    run = read_run(folder / "run")
    (folder / "cases").mkdir()
    for name, html in build.case_pages(run, scores.wide_scores(run.scores)):
        (folder / "cases" / name).write_text(html, encoding="utf-8")
    return folder / "cases"


@pytest.fixture
def opened(cases: Path, visit: Open) -> Any:
    found = visit(sorted(cases.iterdir())[0])
    settled(found.page)
    yield found.page
    assert found.errors == [] and found.console == []
    assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []


def settled(page: Any) -> None:
    """Wait until the pictures of the slice at hand are drawn."""
    page.wait_for_function(
        "() => { const { painted, wanted } = document.getElementById('viewer').dataset;"
        " return painted && painted === wanted }"
    )


def where(page: Any) -> int:
    """Number of the slice that the page tells."""
    return int(page.locator("#viewer-where").inner_text().split()[1])


def pixels(page: Any, pane: int = 0) -> list[int]:
    settled(page)
    read = """(c) => {
      const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', { willReadFrequently: true });
      copy.drawImage(c, 0, 0);
      return Array.from(copy.getImageData(0, 0, c.width, c.height).data);
    }"""
    found: list[int] = page.locator(".v-frame canvas").nth(pane).evaluate(read)
    return found


def test_slices_are_walked_by_keyboard(opened: Any) -> None:
    stage = opened.locator(".v-stage").first
    stage.focus()
    start = where(opened)
    opened.keyboard.press("ArrowUp")
    assert where(opened) == start + 1
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowDown")
    assert where(opened) == start - 1
    opened.keyboard.press("Home")
    lowest = where(opened)
    opened.keyboard.press("PageUp")
    assert where(opened) == lowest + 5
    opened.keyboard.press("PageDown")
    assert where(opened) == lowest
    opened.keyboard.press("End")
    assert where(opened) > lowest + 5
    assert f"slice {where(opened)} of 12" in opened.locator(".v-frame").first.get_attribute("aria-label")


def test_everything_can_be_reached_and_changed_from_the_keyboard_alone(opened: Any) -> None:
    reached = []
    for _ in range(40):
        opened.keyboard.press("Tab")
        name = "e => e.getAttribute('aria-label') || (e.labels && e.labels[0] && e.labels[0].innerText) || e.innerText"
        reached.append(opened.evaluate(f"({name})(document.activeElement)").strip())
    controls = ["CT", "reference", "prediction", "prompt boxes", "GTV-T", "GTV-N", "Slice"]
    for letter in "AB":
        controls += [f"Arm in picture {letter}", f"Picture {letter}: arrow keys change slice and arm"]
    assert [wanted for wanted in controls if wanted not in reached] == []


def test_left_and_right_change_the_arm_of_the_picture_in_focus_only(opened: Any) -> None:
    selects = opened.locator(".v-pane select")
    other = selects.nth(0).input_value()
    opened.locator(".v-stage").nth(1).focus()
    before = selects.nth(1).input_value()
    opened.keyboard.press("ArrowLeft")
    assert selects.nth(1).input_value() != before
    opened.keyboard.press("ArrowRight")
    assert selects.nth(1).input_value() == before
    assert selects.nth(0).input_value() == other


@pytest.mark.parametrize(
    ("key", "kind"), [("r", "path.reference"), ("p", "path.prediction"), ("b", "path.box")]
)  # fmt: skip
def test_a_letter_hides_and_shows_a_kind_of_line(opened: Any, key: str, kind: str) -> None:
    opened.locator(".v-stage").first.focus()
    lines = opened.locator(f".v-pane >> nth=0 >> {kind}")
    assert lines.count() > 0
    opened.keyboard.press(key)
    assert lines.count() == 0
    opened.keyboard.press(key)
    assert lines.count() > 0


def test_structures_are_switched_by_number_and_by_their_boxes(opened: Any) -> None:
    opened.locator(".v-stage").first.focus()
    rows = opened.locator(".v-row").count()
    opened.keyboard.press("1")
    assert opened.locator(".v-row").count() == rows // 2
    assert not opened.get_by_label("GTV-T").is_checked()
    opened.get_by_label("GTV-T").click()
    assert opened.locator(".v-row").count() == rows


def test_every_modality_and_the_fusion_are_drawn(opened: Any) -> None:
    opened.locator(".v-stage").first.focus()
    drawn = {}
    for name in ("CT", "PET", "T1w", "T2w", "multimodal"):
        assert opened.locator("#viewer-views input:checked").get_attribute("value") == name
        drawn[name] = pixels(opened)
        assert pixels(opened, 1) == drawn[name]
        opened.keyboard.press("m")
    fused = drawn["multimodal"]
    mean = [(a + b) / 2 for a, b in zip(drawn["T1w"], drawn["T2w"], strict=True)]
    for channel, source in enumerate((drawn["CT"], drawn["PET"], mean)):
        pairs = zip(fused[channel::4], source[channel::4], strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1.5
    for one, other in ((0, 1), (1, 2)):  # grey but for the rounding of the file's own colour space
        assert max(abs(a - b) for a, b in zip(drawn["CT"][one::4], drawn["CT"][other::4], strict=True)) <= 2
    assert max(drawn["CT"][0::4]) > 200 and len(set(drawn["PET"][0::4])) > 20


def test_the_wheel_turns_slices_and_lets_the_page_go_on_at_the_end(opened: Any) -> None:
    stage = opened.locator(".v-stage").first
    stage.hover()
    start = where(opened)
    opened.mouse.wheel(0, -120)
    opened.wait_for_function(f"() => document.getElementById('viewer-where').innerText.includes('Slice {start + 1} ')")
    assert opened.evaluate("scrollY") == 0
    opened.evaluate("document.activeElement.blur()")
    opened.locator("#viewer-slice").fill("0")
    opened.evaluate("document.activeElement.blur()")
    stage.hover()
    opened.mouse.wheel(0, 200)
    opened.wait_for_function("() => scrollY > 50")


def test_the_wheel_stays_in_a_focused_picture_at_the_end(opened: Any) -> None:
    stage = opened.locator(".v-stage").first
    stage.focus()
    opened.keyboard.press("Home")
    at = opened.evaluate("scrollY")
    stage.hover()
    for _ in range(3):
        opened.mouse.wheel(0, 200)
    opened.wait_for_timeout(200)
    assert opened.evaluate("scrollY") == at


def test_a_click_in_the_strip_goes_to_its_slice(opened: Any) -> None:
    row = opened.locator(".v-row").nth(1)
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    count = int(opened.locator("#viewer-slice").get_attribute("max")) + 1
    for slot in (0, count // 2, count - 1):
        opened.mouse.click(box["x"] + box["width"] * (slot + 0.5) / count, box["y"] + 5)
        assert opened.locator("#viewer-slice").input_value() == str(slot)


def test_the_slider_and_the_strip_agree(opened: Any) -> None:
    opened.locator("#viewer-slice").focus()
    before = where(opened)
    opened.keyboard.press("ArrowRight")
    assert where(opened) == before + 1
    count = int(opened.locator("#viewer-slice").get_attribute("max")) + 1
    at = float(opened.locator("#viewer-strip").evaluate("e => e.style.getPropertyValue('--at')"))
    assert at == pytest.approx((int(opened.locator("#viewer-slice").input_value()) + 0.5) / count)


def test_contours_lie_on_their_voxels_whatever_the_size_of_the_page(cases: Path, visit: Open) -> None:
    for width in (1400, 320):
        page = visit(sorted(cases.iterdir())[0], width=width).page
        settled(page)
        frame = page.locator(".v-frame").first.bounding_box()
        drawn = page.locator(".v-pane >> nth=0 >> path.reference").first.evaluate(
            "e => { const b = e.getBBox(), m = e.getScreenCTM(), v = e.ownerSVGElement.viewBox.baseVal;"
            " return [b.x / v.width, (m.a * b.x + m.e), b.y / v.height, (m.d * b.y + m.f)] }"
        )
        assert drawn[1] == pytest.approx(frame["x"] + drawn[0] * frame["width"], abs=1)
        assert drawn[3] == pytest.approx(frame["y"] + drawn[2] * frame["height"], abs=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_scale_bar_is_as_long_as_it_says(opened: Any) -> None:
    data = opened.evaluate("JSON.parse(document.getElementById('viewer-data').textContent).cases[0]")
    bar, frame = (opened.locator(s).first.bounding_box()["width"] for s in (".v-scale", ".v-frame"))
    shown = opened.locator(".v-scale").first.inner_text()
    assert shown == f"{data['bar']} mm"
    assert bar == pytest.approx(frame * data["bar"] / (data["width"] * data["column"]), abs=1)


def test_an_arm_without_masks_says_so(opened: Any) -> None:
    opened.locator(".v-pane select").first.select_option(label="theirs")
    assert opened.locator(".v-pane >> nth=0 >> .v-lost").inner_text() == "no usable mask (crashed)"
    assert opened.locator(".v-pane >> nth=0 >> path.prediction").count() == 0
    assert "no usable mask" in opened.locator(".v-frame").first.get_attribute("aria-label")


def test_the_same_place_is_marked_in_the_other_picture(opened: Any) -> None:
    opened.locator(".v-stage").first.hover()
    assert opened.locator(".v-pane >> nth=1 >> .v-cross").is_visible()
    assert not opened.locator(".v-pane >> nth=0 >> .v-cross").is_visible()


def test_without_script_a_figure_and_the_scores_remain(cases: Path, visit: Open) -> None:
    page = visit(sorted(cases.iterdir())[0], script=False).page
    assert not page.locator("#viewer").is_visible()
    assert page.locator(".v-stills svg image").is_visible()
    assert page.locator("#case-scores").is_visible()


def test_the_section_of_the_report_switches_between_cases(cases: Path, visit: Open) -> None:
    run = read_run(cases.parent / "run")
    context = build.viewer_section(run, scores.wide_scores(run.scores))
    environment = templating.environment()
    section = environment.get_template("viewer.html.j2").render(viewer=context, run=run)
    path = cases.parent / "section.html"
    path.write_text(f"<!DOCTYPE html><title>t</title><style>{templating.styles()}</style><main>{section}</main>")
    found = visit(path)
    settled(found.page)
    before = pixels(found.page)
    picker = found.page.locator("#viewer-case")
    assert picker.locator("option").count() == 2
    link = found.page.locator("#viewer-page").get_attribute("href")
    picker.select_option(index=1)
    assert pixels(found.page) != before
    assert found.page.locator("#viewer-page").get_attribute("href") != link
    assert (cases.parent / link).is_file()
    assert found.errors == [] and found.console == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(cases: Path, visit: Open, scheme: str) -> None:
    page = visit(sorted(cases.iterdir())[0], scheme=scheme).page
    settled(page)
    found = Axe().run(page).response["violations"]
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []
