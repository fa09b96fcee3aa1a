"""The case viewer as a reader drives it: by keyboard, by wheel and by mouse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]  # the fixture `visit` of conftest.py


@pytest.fixture
def case(report: Path) -> Path:
    """Page of a case of which every arm has masks of both structures."""
    return report.parent / "cases" / "PHA-026.html"


@pytest.fixture
def opened(case: Path, visit: Open) -> Any:
    found = visit(case)
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


def test_keys_walk_through_the_slices_and_the_page_tells_where_it_is(opened: Any) -> None:
    opened.locator(".v-stage").first.focus()
    for key, step in (("ArrowUp", 1), ("ArrowDown", -1), ("ArrowDown", -1)):
        before = where(opened)
        opened.keyboard.press(key)
        assert where(opened) == before + step
    opened.keyboard.press("Home")
    lowest = where(opened)
    opened.keyboard.press("PageUp")
    assert where(opened) == lowest + 5
    opened.keyboard.press("PageDown")
    assert where(opened) == lowest
    opened.keyboard.press("End")
    assert where(opened) > lowest + 5
    assert f"slice {where(opened)} of 24" in opened.locator(".v-frame").first.get_attribute("aria-label")


def test_keys_change_the_arm_in_focus_the_kinds_of_lines_and_the_structures(opened: Any) -> None:
    selects = opened.locator(".v-pane select")
    other, before = selects.nth(0).input_value(), selects.nth(1).input_value()
    opened.locator(".v-stage").nth(1).focus()
    opened.keyboard.press("ArrowLeft")
    assert selects.nth(1).input_value() != before
    opened.keyboard.press("ArrowRight")
    assert (selects.nth(0).input_value(), selects.nth(1).input_value()) == (other, before)
    for key, kind in (("r", "path.reference"), ("p", "path.prediction"), ("b", "path.box")):
        lines = opened.locator(f".v-pane >> nth=0 >> {kind}")
        assert lines.count() > 0
        opened.keyboard.press(key)
        assert lines.count() == 0
        opened.keyboard.press(key)
        assert lines.count() > 0
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
    assert max(drawn["CT"][0::4]) > 120 and len(set(drawn["PET"][0::4])) > 20


def test_the_wheel_turns_slices_and_lets_the_page_go_on_at_the_end_unless_the_picture_has_the_focus(
    opened: Any,
) -> None:
    stage = opened.locator(".v-stage").first
    stage.hover()
    start, at = where(opened), opened.evaluate("scrollY")
    opened.mouse.wheel(0, -120)
    opened.wait_for_function(f"() => document.getElementById('viewer-where').innerText.includes('Slice {start + 1} ')")
    assert opened.evaluate("scrollY") == at
    stage.focus()
    opened.keyboard.press("Home")
    at = opened.evaluate("scrollY")
    stage.hover()
    for _ in range(3):
        opened.mouse.wheel(0, 200)
    opened.wait_for_timeout(200)
    assert opened.evaluate("scrollY") == at
    opened.evaluate("document.activeElement.blur()")
    stage.hover()
    opened.mouse.wheel(0, 200)
    opened.wait_for_function(f"() => scrollY > {at} + 50")


def test_slider_and_strip_go_to_a_slice_and_agree(opened: Any) -> None:
    slider = opened.locator("#viewer-slice")
    slider.focus()
    before = where(opened)
    opened.keyboard.press("ArrowRight")
    assert where(opened) == before + 1
    count = int(slider.get_attribute("max")) + 1
    at = float(opened.locator("#viewer-strip").evaluate("e => e.style.getPropertyValue('--at')"))
    assert at == pytest.approx((int(slider.input_value()) + 0.5) / count)
    row = opened.locator(".v-row").nth(1)
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    for slot in (0, count // 2, count - 1):
        opened.mouse.click(box["x"] + box["width"] * (slot + 0.5) / count, box["y"] + 5)
        assert slider.input_value() == str(slot)


@pytest.mark.parametrize("width", [1400, 320])
def test_contours_lie_on_their_voxels_and_the_scale_bar_is_as_long_as_it_says(
    case: Path, visit: Open, width: int
) -> None:
    page = visit(case, width=width).page
    settled(page)
    frame = page.locator(".v-frame").first.bounding_box()
    drawn = page.locator(".v-pane >> nth=0 >> path.reference").first.evaluate(
        "e => { const b = e.getBBox(), m = e.getScreenCTM(), v = e.ownerSVGElement.viewBox.baseVal;"
        " return [b.x / v.width, (m.a * b.x + m.e), b.y / v.height, (m.d * b.y + m.f)] }"
    )
    assert drawn[1] == pytest.approx(frame["x"] + drawn[0] * frame["width"], abs=1)
    assert drawn[3] == pytest.approx(frame["y"] + drawn[2] * frame["height"], abs=1)
    data = page.evaluate("JSON.parse(document.getElementById('viewer-data').textContent).cases[0]")
    bar = page.locator(".v-scale").first
    assert bar.inner_text() == f"{data['bar']} mm"
    length = frame["width"] * data["bar"] / (data["width"] * data["column"])
    assert bar.bounding_box()["width"] == pytest.approx(length, abs=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_same_place_is_marked_in_the_other_picture_and_a_lost_mask_is_told(case: Path, visit: Open) -> None:
    page = visit(case.with_name("PHA-025.html")).page
    settled(page)
    page.locator(".v-stage").first.hover()
    assert page.locator(".v-pane >> nth=1 >> .v-cross").is_visible()
    assert not page.locator(".v-pane >> nth=0 >> .v-cross").is_visible()
    page.locator(".v-pane select").first.select_option(label="box-fill")
    assert page.locator(".v-pane >> nth=0 >> .v-lost").inner_text() == "no usable mask (crashed)"
    assert page.locator(".v-pane >> nth=0 >> path.prediction").count() == 0
    assert "no usable mask" in page.locator(".v-frame").first.get_attribute("aria-label")


def test_the_section_of_the_report_switches_between_cases(report: Path, visit: Open) -> None:
    page = visit(report).page
    settled(page)
    before = pixels(page)
    picker, link = page.locator("#viewer-case"), page.locator("#viewer-page")
    assert picker.locator("option").count() > 1
    first = link.get_attribute("href")
    picker.select_option(index=1)
    assert pixels(page) != before
    assert link.get_attribute("href") != first
    assert (report.parent / link.get_attribute("href")).is_file()
