"""Reports as a reader opens them: from the disk, in a real browser, with the network off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from run_pictures import add_pictures
from run_writer import PLANS, Plan, RunWriter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

#: What a name could try, were it ever taken for markup, for a script or for matplotlib's notation.
HOSTILE = (
    "<img src=x onerror=obeyed=1>",
    "<script>obeyed=1</script>",
    "</script><script>obeyed=1</script>",
    "\"'><svg onload=obeyed=1>",
    "<a href='javascript:obeyed=1'>y</a> <b>z</b> $x_y$ %{x}",
    "{{ 7*7 }}\u202e" + "one-long-name" * 9,
)


@dataclass
class Visit:
    """A page and all that it asked for, said and raised since before it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's Chromium; without one, or without playwright, the tests are skipped, saying so."""
    pytest.importorskip("playwright", reason="playwright is not installed (pip install .[dev])")
    import chromium

    if chromium.executable() is None:
        pytest.skip(f"no Chromium on this machine (looked for {', '.join(chromium.NAMES)})")
    with chromium.started() as found:
        yield found


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens a file: visit(path, width=1400, scheme="light", script=True) -> Visit. The network is off."""
    contexts: list[BrowserContext] = []

    def opened(path: Path, width: int = 1400, scheme: Any = "light", script: bool = True) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
            offline=True,
        )
        contexts.append(context)
        context.set_default_timeout(30_000)
        found = Visit(context.new_page())
        found.page.goto(path.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of a whole run: seven arms, two structures, pictures, failed steps, every section, hostile names.

    The first case crashed in one arm, the last has a hostile name and no pictures.
    """
    from gtvbench.reports.page.build import build_report

    arm, structure, study, case, option, long = HOSTILE
    writer = RunWriter(structures=("GTV-T", structure), plans=(*PLANS, Plan(arm, "none", 0.65)))
    writer.fail("box-fill", writer.cases[:1], "crashed")
    writer.study |= {"study": study, "note": list(HOSTILE)}
    writer.study["spacing"] = [1.0 + 0.01 * k for k in range(60)]  # longer than the box that shows the study file
    writer.arms[0] |= {"reason": arm, "options": {case: option}}
    writer.provenance |= {"notes": list(HOSTILE), "platform": long}
    writer.failures += [dict.fromkeys(("step", "arm", "case", "status", "message", "traceback"), t) for t in HOSTILE]
    folder = tmp_path_factory.mktemp("browser") / "run"
    add_pictures(writer.write(folder), writer)
    writer.scores = writer.scores.replace({column: {writer.cases[-1]: case} for column in ("case", "patient")})
    return build_report(writer.write(folder))
