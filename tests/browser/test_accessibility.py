"""The page for a keyboard, a screen reader and tired eyes: axe's rules, and what axe cannot see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")

Visitor = Callable[..., Any]

#: What a keyboard must reach: links, <summary>, controls, and regions that scroll.
STOPS = (
    "a[*|href]:not([tabindex='-1']), summary, button, select, textarea, [tabindex='0'],"
    " input:not([type=radio]:not(:checked))"
)

#: Where the focus is: which stop (-1: none), whether its outline can be seen, and whether something covers it.
FOCUS = f"""() => {{
  const element = document.activeElement.closest('.v-option') || document.activeElement;  // a box within its label
  const style = getComputedStyle(element);
  const box = element.getClientRects()[0];  // of a link that wraps, the first line
  const [x, y] = [Math.max(box.left, 0) + 4, Math.max(box.top, 0) + Math.min(box.height / 2, 8)];
  const top = document.elementFromPoint(x, y);
  return {{
    stop: [...document.querySelectorAll(`{STOPS}`)].indexOf(document.activeElement),
    name: element.tagName + ' ' + (element.getAttribute('aria-labelledby') || element.textContent.trim().slice(0, 40)),
    outlined: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    covered: !(top && (element.contains(top) || top.contains(element))) ,
  }};
}}"""


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1400, "dark")])
def test_axe_finds_nothing_serious(visit: Visitor, report: Path, width: int, scheme: str) -> None:
    for path in (report, report.parent / "cases" / "PHA-026.html"):
        page = visit(path, width=width, scheme=scheme).page
        page.evaluate("value => document.querySelectorAll('details').forEach(e => { e.open = value; })", width > 320)
        page.evaluate(axe.AXE_SCRIPT)
        # Drawings are left out: axe cannot tell what lies behind a text in SVG, and takes its time to say so.
        result = page.evaluate("axe.run({exclude: [['.plot svg']]}, {resultTypes: ['violations']})")
        assert result["passes"]
        found = [
            f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
            for rule in result["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
        assert found == []


def test_the_first_tab_stop_skips_the_contents(visit: Visitor, report: Path) -> None:
    page = visit(report).page
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.get_attribute("href") == "#content"
    box = skip.bounding_box()
    assert box is not None and box["x"] >= 0 and box["y"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('content').contains(document.activeElement)")


def test_the_keyboard_reaches_everything_and_sees_where_it_is(visit: Visitor, report: Path) -> None:
    page = visit(report, width=320).page
    wanted = page.evaluate(
        f"[...document.querySelectorAll(`{STOPS}`)].map((e, k) => e.checkVisibility() && !e.disabled ? k : -1)"
        ".filter(k => k >= 0)"
    )
    visited: list[int] = []
    unseen: list[str] = []
    for _ in range(len(wanted) + 50):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus["stop"] < 0 or focus["stop"] in visited:
            break
        visited.append(focus["stop"])
        unseen += [focus["name"]] if focus["covered"] or not focus["outlined"] else []
    assert set(wanted) - set(visited) == set()
    assert visited == sorted(visited)
    assert unseen == []


def test_what_is_folded_opens_and_what_is_wide_scrolls_by_keyboard_and_has_a_name(visit: Visitor, report: Path) -> None:
    page = visit(report, width=320).page
    folded = page.locator("main details:not([open]) > summary").filter(visible=True).first
    folded.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    nameless = page.evaluate("""() => [...document.querySelectorAll('main *')].filter(e =>
      /auto|scroll/.test(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth && e.checkVisibility()
      && !(e.tabIndex === 0 && (e.getAttribute('aria-label')
           || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim())))
      .map(e => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    wide = page.evaluate(
        "(() => { const e = [...document.querySelectorAll('main [tabindex=\"0\"]')]"
        ".find(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 50); e.focus(); return !!e; })()"
    )
    assert wide
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0")


@pytest.mark.parametrize("width", [320, 1400])
def test_the_contents_stay_in_sight_and_lead_to_each_section(visit: Visitor, report: Path, width: int) -> None:
    page = visit(report, width=width).page
    links = page.locator("nav a").all()
    assert links
    for link in links:
        target = (link.get_attribute("href") or "").removeprefix("#")
        link.click()
        assert page.evaluate(
            """id => {
              const target = document.getElementById(id);
              const heading = target.querySelector('h1, h2, h3') || target;
              const box = heading.getBoundingClientRect();
              const top = document.elementFromPoint(box.left + 2, box.top + box.height / 2);
              return box.top >= 0 && box.bottom <= innerHeight && heading.contains(top);
            }""",
            target,
        ), target
    nav = page.locator("nav").bounding_box()
    assert page.evaluate("scrollY") > 0
    assert nav is not None and nav["y"] >= 0 and nav["y"] + min(nav["height"], 40) <= 800
    sections = set(page.evaluate("[...document.querySelectorAll('main > section[id]')].map(e => e.id)"))
    assert sections <= {(link.get_attribute("href") or "").removeprefix("#") for link in links}
