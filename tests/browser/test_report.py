"""What the page shows and does: with and without JavaScript, light, dark, in print, and whatever names it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

#: Rectangle of an element that a reader can see, or null: hidden, in a closed <details>, or without area.
SEEN = """const seen = e => {
  const box = e.getBoundingClientRect();
  return e.checkVisibility({visibilityProperty: true}) && box.width > 0 && box.height > 0 ? box : null;
};"""

#: Per interactive figure: how many marks of its data can be seen (plotly draws a trace's marks under .trace).
MARKS = f"""() => {{ {SEEN}
  return [...document.querySelectorAll('.plot .live')].map(live => {{
    const marks = live.querySelectorAll('.trace path, .trace circle, .trace rect, .trace image, canvas');
    return [live.id, [...marks].filter(seen).length];
  }});
}}"""

#: Per static figure: its place in the page, whether it can be seen, and its drawing's width and height in pixels.
STATIC = f"""() => {{ {SEEN}
  return [...document.querySelectorAll('.plot .static, .plot .still')].map((figure, k) => {{
    const drawing = figure.querySelector('svg, img');
    const box = drawing && seen(drawing);
    return [k, box ? box.width : 0, box ? box.height : 0];
  }});
}}"""

#: Texts of figures whose contrast with what lies behind them is below 4.5 : 1 (axe does not read SVG): [text, ratio].
#: Behind a text lie the page and, in the order of drawing, the filled shapes around its middle.
PALE = f"""() => {{ {SEEN}
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const paper = numbers(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const behind = (text, shapes) => {{
    const box = text.getBoundingClientRect();
    const middle = new DOMPoint(box.x + box.width / 2, box.y + box.height / 2);
    return shapes.reduce((under, [shape, colour, alpha, inverse]) =>
      shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING
      && shape.isPointInFill(middle.matrixTransform(inverse))
        ? under.map((v, k) => alpha * colour[k] + (1 - alpha) * v) : under, paper);
  }};
  return [...document.querySelectorAll('.plot svg')].filter(seen).flatMap(drawing => {{
    const shapes = [...drawing.querySelectorAll('path, rect, circle, polygon')]
      .filter(shape => !shape.closest('defs, clipPath'))
      .map(shape => [shape, getComputedStyle(shape)])
      .filter(([, style]) => style.fill.startsWith('rgb'))
      .map(([shape, style]) => {{
        const colour = numbers(style.fill);
        return [shape, colour, (colour[3] ?? 1) * style.fillOpacity * style.opacity, shape.getScreenCTM().inverse()];
      }})
      .filter(([, , alpha]) => alpha > 0);
    return [...drawing.querySelectorAll('text')].filter(seen).map(text => {{
      const [own, under] = [numbers(getComputedStyle(text).fill), behind(text, shapes)].map(luminance);
      return [text.textContent, (Math.max(own, under) + 0.05) / (Math.min(own, under) + 0.05)];
    }});
  }}).filter(([, ratio]) => ratio < 4.5);
}}"""

#: Texts of figures smaller than so many pixels on the screen: [text, pixels].
SMALL = f"""least => {{ {SEEN}
  return [...document.querySelectorAll('.plot svg text')].filter(seen).map(text => {{
    const grown = text.getScreenCTM();
    return [text.textContent, parseFloat(getComputedStyle(text).fontSize) * Math.hypot(grown.a, grown.b)];
  }}).filter(([, size]) => size < least);
}}"""

#: Texts of interactive figures that reach over the edge of their drawing, where they are cut.
CUT = f"""() => {{ {SEEN}
  return [...document.querySelectorAll('.plot .live')].filter(seen).flatMap(live => {{
    const frame = live.getBoundingClientRect();
    return [...live.querySelectorAll('svg text')].filter(seen).filter(text => {{
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1
        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    }}).map(text => live.id + ': ' + text.textContent);
  }});
}}"""

#: Elements that stick out of the page to the right and do not scroll within a parent, for the failure's message.
WIDE = """() => [...document.querySelectorAll('main *, nav *, header *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1 || e.closest('svg')) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return false;
  return true;
}).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40)).slice(0, 8)"""

Visitor = Callable[..., Any]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_asks_for_nothing_and_says_nothing_on_the_console(visit: Visitor, report: Path, scheme: str) -> None:
    found = visit(report, scheme=scheme)
    found.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    found.page.mouse.wheel(0, 100_000)
    found.page.wait_for_timeout(300)
    assert [url for url in found.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert found.console == []
    assert found.errors == []


@pytest.mark.parametrize("width", [320, 1400])
def test_every_interactive_figure_shows_marks_and_hides_its_static_twin(
    visit: Visitor, report: Path, width: int
) -> None:
    page = visit(report, width=width).page
    marks = dict(page.evaluate(MARKS))
    assert marks
    assert {figure: count for figure, count in marks.items() if count == 0} == {}
    assert page.locator(".plot .static").filter(visible=True).count() == 0
    assert page.evaluate(CUT) == []


def test_without_javascript_every_figure_and_table_is_there(visit: Visitor, report: Path) -> None:
    page = visit(report, width=320, script=False).page
    figures = page.evaluate(STATIC)
    assert len(figures) >= page.locator(".plot").count() > 0
    assert [figure for figure in figures if figure[1] < 200 or figure[2] < 80] == []
    assert page.locator(".live").filter(visible=True).count() == 0
    tables = page.locator("main table")
    assert tables.count() == page.locator("main table:has(td)").count() > 0
    hidden = page.locator("main table:not(details table)").filter(visible=False)
    assert hidden.count() == 0


def test_interactive_figures_tell_their_values_to_the_pointer(visit: Visitor, report: Path) -> None:
    labels = hovered(visit(report).page)
    assert labels
    assert [figure for figure, texts in labels.items() if not "".join(texts).strip()] == []
    assert any("PHA-0" in text for texts in labels.values() for text in texts)


def hovered(page: Any) -> dict[str, list[str]]:
    """The labels that appear while the pointer goes over each interactive figure's marks."""
    labels = {}
    for live in page.locator(".plot .live").filter(visible=True).all():
        live.scroll_into_view_if_needed()
        texts: list[str] = []
        for x, y in live.evaluate(POINTS):
            page.mouse.move(x, y, steps=3)
            page.wait_for_timeout(120)  # plotly answers the pointer some frames later
            texts += live.evaluate("e => [...e.querySelectorAll('.hoverlayer text')].map(text => text.textContent)")
        page.mouse.move(1, 1)
        labels[live.get_attribute("id")] = texts
    return labels


#: Middles of the first, a middle and the last of a figure's marks, in pixels of the window; where it has none but
#: lines, three places along the first and the last of them.
POINTS = """live => {
  const some = list => [...new Set([0, Math.floor(list.length / 2), list.length - 1])].flatMap(k => list[k] || []);
  const marks = some([...live.querySelectorAll('.points path.point')]).map(mark => mark.getBoundingClientRect());
  if (marks.length) return marks.map(box => [box.x + box.width / 2, box.y + box.height / 2]);
  return some([...live.querySelectorAll('.lines path.js-line')]).flatMap(line => [0.2, 0.5, 0.8].map(share => {
    const place = line.getPointAtLength(share * line.getTotalLength()).matrixTransform(line.getScreenCTM());
    return [place.x, place.y];
  }));
}"""


@pytest.mark.parametrize("width", [320, 768, 1400])
def test_the_page_never_scrolls_sideways(visit: Visitor, report: Path, width: int) -> None:
    page = visit(report, width=width).page
    for scheme, unfolded in (("light", False), ("light", True), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("value => document.querySelectorAll('details').forEach(e => { e.open = value; })", unfolded)
        page.wait_for_timeout(100)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, page.evaluate(WIDE)


def test_figures_follow_the_reader_into_the_dark(visit: Visitor, report: Path) -> None:
    page = visit(report, scheme="light").page
    ink = "() => getComputedStyle(document.querySelector('.live svg text')).fill"
    before = page.evaluate(ink)
    assert page.evaluate(PALE) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({ink})() !== before", arg=before)
    page.wait_for_timeout(300)  # the other figures follow the first
    assert page.evaluate(PALE) == []
    assert [figure for figure, count in page.evaluate(MARKS) if count == 0] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_static_figures_are_legible_on_the_readers_paper(visit: Visitor, report: Path, scheme: str) -> None:
    page = visit(report, scheme=scheme, script=False).page
    assert page.locator(".plot svg text").filter(visible=True).count() > 0
    assert page.evaluate(PALE) == []


@pytest.mark.parametrize("script", [True, False])
def test_figures_can_be_read_on_a_phone(visit: Visitor, report: Path, script: bool) -> None:
    page = visit(report, width=320, script=script).page
    assert page.locator(".plot svg text").filter(visible=True).count() > 0
    assert page.evaluate(SMALL, 9) == []


@pytest.mark.parametrize("drawn", [True, False])
def test_paper_gets_the_static_figures_in_black_on_white_and_no_contents(
    visit: Visitor, report: Path, drawn: bool
) -> None:
    page = visit(report, width=720, scheme="dark", draw=drawn).page
    page.emulate_media(media="print", color_scheme="dark")
    figures = page.evaluate(STATIC)
    assert figures
    assert [figure for figure in figures if figure[1] < 100 or figure[2] < 40] == []
    assert page.locator(".live").filter(visible=True).count() == 0
    assert page.locator("nav").filter(visible=True).count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(PALE) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 720, page.evaluate(WIDE)
    assert page.pdf().startswith(b"%PDF")


def test_every_link_to_a_file_finds_it(visit: Visitor, report: Path) -> None:
    page = visit(report).page
    addresses = page.evaluate(
        """[...document.querySelectorAll('a')].map(e => e.getAttribute('href') || e.getAttribute('xlink:href') || '')"""
    )
    files = {address.split("#")[0] for address in addresses if address and not address.startswith(("#", "data:"))}
    assert files
    assert sorted(name for name in files if not (report.parent / unquote(name)).is_file()) == []


def test_ids_are_unique_once_everything_is_drawn(visit: Visitor, report: Path) -> None:
    ids = visit(report).page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert sorted({name for name in ids if ids.count(name) > 1}) == []


def test_names_are_shown_and_never_obeyed(visit: Visitor, hostile_report: Path) -> None:
    found = visit(hostile_report, width=320)
    page = found.page
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    labels = hovered(page)
    assert any("obeyed" in text for texts in labels.values() for text in texts)
    assert page.evaluate("typeof obeyed") == "undefined"
    assert found.dialogs == []
    assert [url for url in found.requests if not url.startswith(("data:", "blob:"))] == [hostile_report.as_uri()]
    assert (found.console, found.errors) == ([], [])
    assert page.locator("img[src=x], [onerror], [onload], main b, main script, .hoverlayer a").count() == 0
    assert page.evaluate(LINKS) == []
    assert "<img src=x onerror=obeyed=1>" in page.locator("main").inner_text().replace("\n", "")
    for width in (320, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, page.evaluate(WIDE)


#: Addresses of links, in HTML and SVG, that are neither in this folder nor data.
LINKS = """() => [...document.querySelectorAll('a, area, use, image, form')]
  .map(e => e.getAttribute('href') || e.getAttribute('xlink:href') || e.getAttribute('action') || '')
  .filter(address => /^\\s*[a-z][a-z0-9+.-]*:/i.test(address) && !/^data:(text\\/|image\\/)/.test(address))"""
