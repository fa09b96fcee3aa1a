"""The machine's own Chromium, driven by playwright: found, never downloaded, and kept off the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

#: Names under which distributions install it, in the order in which they are tried.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: No sandbox: a container's root has no user namespaces. The rest keeps the browser from calling home.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip

#: Brings every interactive figure into view and waits until it is drawn, then goes back to the top. A figure that is
#: not drawn within five seconds is left; who looks for its marks will miss them.
DRAW = """async () => {
  const pause = ms => new Promise(done => setTimeout(done, ms));
  for (const live of document.querySelectorAll('.plot .live')) {
    if (!live.parentElement.checkVisibility()) continue;  // in a closed <details>
    // Not scrollIntoView: from Chromium 150 on, the next Tab starts at what was scrolled to, which no reader asked for.
    const box = live.parentElement.getBoundingClientRect();
    scrollTo({top: scrollY + box.top + (box.height - innerHeight) / 2, behavior: 'instant'});
    for (let k = 0; k < 250 && !(live.checkVisibility() && live.querySelector('svg, canvas')); k++) await pause(20);
  }
  await pause(150);  // layouts that follow the drawing's own size
  scrollTo(0, 0);
}"""


def executable() -> str | None:
    """Path of the first Chromium on PATH, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser. Raises FileNotFoundError where none is installed."""
    path = executable()
    if path is None:
        raise FileNotFoundError(f"no Chromium on PATH (looked for {', '.join(NAMES)}); try `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
