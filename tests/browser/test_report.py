"""What the page shows and does: with and without JavaScript, light, dark, in print, and whatever names it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Rectangle of an element that a reader can see, or null: hidden, in a closed <details>, or without area.
SEEN = """const seen = e => {
  const box = e.getBoundingClientRect();
  return e.checkVisibility({visibilityProperty: true}) && box.width > 0 && box.height > 0 ? box : null;
};"""

#: Per figure: the name that it is read by, and its drawing's width and height in pixels.
FIGURES = f"""() => {{ {SEEN}
  return [...document.querySelectorAll('.plot')].map(figure => {{
    const box = seen(figure.querySelector('svg'));
    return [figure.getAttribute('aria-label').split('.')[0], box ? box.width : 0, box ? box.height : 0];
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

#: Elements that stick out of the page to the right and do not scroll within a parent, for the failure's message.
WIDE = """() => [...document.querySelectorAll('main *, nav *, header *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1 || e.closest('svg')) return false;
  for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return false;
  return true;
}).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40)).slice(0, 8)"""

Visitor = Callable[..., Any]


def unfold(page: Any, opened: bool = True) -> None:
    page.evaluate("value => document.querySelectorAll('details').forEach(e => { e.open = value; })", opened)


def test_the_page_asks_for_nothing_says_nothing_and_obeys_no_name(visit: Visitor, report: Path) -> None:
    found = visit(report)
    page = found.page
    unfold(page)
    page.mouse.wheel(0, 100_000)
    page.wait_for_timeout(300)
    assert [url for url in found.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    assert (found.console, found.errors, found.dialogs) == ([], [], [])
    assert page.evaluate("typeof obeyed") == "undefined"
    assert page.locator("img[src=x], [onerror], [onload], main b").count() == 0
    assert "<img src=x onerror=obeyed=1>" in page.locator("main").inner_text().replace("\n", "")
    assert any("obeyed" in text for text in page.locator(".plot a title").all_text_contents())


@pytest.mark.parametrize("script", [True, False])
def test_on_a_phone_every_figure_and_table_is_there_and_nothing_scrolls_sideways(
    visit: Visitor, report: Path, script: bool
) -> None:
    page = visit(report, width=320, script=script).page
    figures = page.evaluate(FIGURES)
    assert len(figures) == page.locator("main figure:has(.plot)").count() > 0
    assert [figure for figure in figures if figure[1] < 200 or figure[2] < 80] == []
    assert page.evaluate(SMALL, 9) == []
    assert page.locator("main table:has(td)").count() > 10
    assert page.locator("main table:not(details table, #viewer table)").filter(visible=False).count() == 0
    for scheme, unfolded in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        unfold(page, unfolded)
        page.wait_for_timeout(100)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 320, page.evaluate(WIDE)


def test_a_mark_names_its_case_stands_out_in_every_row_and_leads_to_its_page(visit: Visitor, report: Path) -> None:
    page = visit(report).page
    name = "cases/PHA-026.html"
    mark = page.locator(f".plot a[href='{name}']").first
    assert "PHA-026" in (mark.locator("title").text_content() or "")
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    same = page.evaluate("[...document.querySelectorAll('.plot a.same')].map(e => e.getAttribute('href'))")
    assert set(same) == {name} and len(same) == 7
    page.mouse.move(1, 1)
    assert page.locator(".plot a.same").count() == 0
    mark.click(force=True)
    assert page.url.endswith(name)


def test_figures_follow_the_reader_into_the_dark_and_onto_paper(visit: Visitor, report: Path) -> None:
    page = visit(report, width=720, scheme="light").page
    assert page.locator(".plot svg text").filter(visible=True).count() > 0
    assert page.evaluate(PALE) == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(PALE) == []
    page.emulate_media(media="print", color_scheme="dark")
    figures = page.evaluate(FIGURES)
    assert [figure for figure in figures if figure[1] < 100 or figure[2] < 40] == []
    assert page.locator("nav").filter(visible=True).count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(PALE) == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 720, page.evaluate(WIDE)
    assert page.pdf().startswith(b"%PDF")
