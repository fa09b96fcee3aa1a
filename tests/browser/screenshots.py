"""Screenshots of a report, for whoever works on its looks.

    python tests/browser/screenshots.py REPORT.html OUTDIR [--width 320 1400] [--scheme dark] [--section scores time]
                                        [--open] [--no-script] [--no-print]

OUTDIR/1400-light/00-page.png is the page's top, NN-<section id>.png each section in the page's order; what is higher
than --height (1500 px) goes on in NN-<section id>-2.png ... OUTDIR/print/NN.png are the pages of the printed report
(OUTDIR/print.pdf; pages as PNG need poppler's pdftoppm). Console messages, errors and requests are printed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

from chromium import started
from playwright.sync_api import Browser, Page

WIDTHS = (320, 768, 1400)
SCHEMES = ("light", "dark")

#: Every element with an id that a reader would call a section, and its box on the page in CSS pixels.
BOXES = """() => [...document.querySelectorAll("section[id], body > [role=dialog][open]")].map(e => {
  const box = e.getBoundingClientRect();
  return {id: e.id, x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height};
})"""


def main() -> None:
    options = _options()
    report = options.report.resolve(strict=True)
    with started() as browser:
        for width in options.width:
            for scheme in options.scheme:
                _photograph(browser, report, width, scheme, options)
        if options.print:
            _print(browser, report, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--width", type=int, nargs="+", default=list(WIDTHS), help="CSS pixels")
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--section", nargs="+", default=[], help="ids; all where left out")
    parser.add_argument("--height", type=int, default=1500, help="highest PNG in CSS pixels")
    parser.add_argument("--parts", type=int, default=6, help="most PNGs of one section")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels per CSS pixel")
    parser.add_argument("--open", action="store_true", help="open every <details>")
    parser.add_argument("--no-script", action="store_true", help="as a reader without JavaScript sees it")
    parser.add_argument("--print", action=argparse.BooleanOptionalAction, default=True, help="PDF and its pages")
    return parser.parse_args()


def _photograph(browser: Browser, report: Path, width: int, scheme: str, options: argparse.Namespace) -> None:
    """One width and scheme: the page's top and its sections."""
    folder = options.outdir / f"{width}-{scheme}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    page = _opened(browser, report, width, scheme, options)
    boxes = [box for box in page.evaluate(BOXES) if box["width"] > 0 and box["height"] > 0]
    total = page.evaluate("document.scrollingElement.scrollHeight")
    overflow = page.evaluate("document.scrollingElement.scrollWidth") - width
    if not options.section:
        _clips(page, folder / "00-page", {"x": 0, "y": 0, "width": width, "height": total}, options.height, 1)
    for number, box in enumerate(boxes, start=1):
        if options.section and box["id"] not in options.section:
            continue
        clip = {"x": 0, "y": box["y"], "width": width, "height": min(box["height"], total - box["y"])}
        _clips(page, folder / f"{number:02d}-{box['id']}", clip, options.height, options.parts)
    print(f"{folder}: page {total} px high" + (f", OVERFLOWS by {overflow} px" if overflow > 0 else ""))
    page.context.close()


def _clips(page: Page, stem: Path, clip: dict[str, float], height: int, parts: int) -> None:
    """PNGs of a part of the page, one below the other, none higher than `height`; what `parts` leaves is left out."""
    for k in range(min(parts, max(1, -(-int(clip["height"]) // height)))):
        top = clip["y"] + k * height
        part: Any = {**clip, "y": top, "height": max(1, min(height, clip["y"] + clip["height"] - top))}
        name = f"{stem.name}-{k + 1}.png" if k else f"{stem.name}.png"
        page.screenshot(path=stem.with_name(name), clip=part, full_page=True, animations="disabled")


def _print(browser: Browser, report: Path, options: argparse.Namespace) -> None:
    page = _opened(browser, report, 1000, "light", options)
    pdf = options.outdir / "print.pdf"
    page.pdf(path=pdf, format="A4", margin=dict.fromkeys(("top", "right", "bottom", "left"), "12mm"))
    page.context.close()
    folder = options.outdir / "print"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if shutil.which("pdftoppm"):
        subprocess.run(["pdftoppm", "-r", "70", "-png", pdf, folder / "page"], check=True)
    print(f"{pdf}: {len(list(folder.iterdir()))} pages")


def _opened(browser: Browser, report: Path, width: int, scheme: str, options: argparse.Namespace) -> Page:
    """The report in a context of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        reduced_motion="reduce",
        offline=True,
        java_script_enabled=not options.no_script,
        device_scale_factor=options.scale,
    )
    page = context.new_page()
    page.on("console", lambda message: print(f"console.{message.type}: {message.text}"))
    page.on("pageerror", lambda error: print(f"error: {error}"))
    page.on("request", lambda request: _note(request.url, report))
    page.goto(report.as_uri())
    if options.open:
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    return page


def _note(url: str, report: Path) -> None:
    if url != report.as_uri() and not url.startswith(("data:", "blob:")):
        print(f"request: {url}")


if __name__ == "__main__":
    main()
