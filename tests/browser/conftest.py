"""Reports as a reader opens them: from the disk, in a real browser, with the network off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from run_writer import Plan, RunWriter

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
    """index.html of a whole run: six arms, two structures, failed steps, banners, every section."""
    writer = RunWriter()
    writer.fail("box-fill", writer.cases[:1], "crashed")
    writer.study["spacing"] = [1.0 + 0.01 * k for k in range(60)]  # longer than the box that shows the study file
    return _built(writer, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of a run whose every name is hostile."""
    arms = (
        Plan("box-fill", "none", 0.59),
        Plan(HOSTILE[0], "none", 0.7, trains=True),
        Plan("litemedsam-zero-shot", HOSTILE[0], 0.8),
    )
    writer = RunWriter(patients=5, structures=(HOSTILE[1], HOSTILE[5], "GTV-T"), plans=arms)
    cases = dict(zip(writer.cases, HOSTILE, strict=False))
    writer.scores["case"] = writer.scores["case"].replace(cases)
    writer.scores["patient"] = writer.scores["case"]
    writer.study |= {"study": HOSTILE[2], "note": list(HOSTILE)}
    writer.arms[0] |= {"reason": HOSTILE[0], "options": {HOSTILE[3]: HOSTILE[4]}}
    writer.provenance |= {"notes": list(HOSTILE), "modalities": list(HOSTILE), "platform": HOSTILE[0]}
    writer.failures = [
        {"step": text, "arm": text, "case": text, "status": text, "message": text, "traceback": text}
        for text in HOSTILE
    ]  # fmt: skip
    return _built(writer, tmp_path_factory.mktemp("hostile"))


def _built(writer: RunWriter, folder: Path) -> Path:
    from gtvbench.reports.page.build import build_report

    return build_report(writer.write(folder / "run"))
