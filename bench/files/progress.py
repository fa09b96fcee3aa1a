"""Progress on standard error: bars with the time left on a terminal, log lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

LOGGER = logging.getLogger("gtvbench")

Mode = Literal["auto", "plain", "json", "quiet"]


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = getattr(record, "facts", {})
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        return json.dumps({"time": stamp, "level": record.levelname.lower(), "message": record.getMessage(), **extra})


def set_up_logging(mode: Mode) -> None:
    """Send the package's log to standard error in the mode asked for; `quiet` keeps warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if mode == "json" else logging.Formatter("%(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(logging.WARNING if mode == "quiet" else logging.INFO)
    LOGGER.propagate = False


class Display:
    """Shows phases of work; one bar at a time on a terminal, a line a phase elsewhere."""

    def __init__(self, mode: Mode = "auto") -> None:
        self._console = Console(stderr=True)
        self._bars = mode == "auto" and self._console.is_terminal
        self._progress: Progress | None = None
        self._task: Any = None

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[None]:
        """A phase of `total` units of work."""
        start = time.monotonic()
        if not self._bars:
            LOGGER.info("%s (%d)", name, total, extra={"facts": {"phase": name, "total": total}})
            yield
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self._console, transient=True) as self._progress:
                self._task = self._progress.add_task(name, total=total, note="")
                try:
                    yield
                finally:
                    self._progress = None
        seconds = time.monotonic() - start
        facts = {"phase": name, "seconds": round(seconds, 3), "finished": True}
        LOGGER.info("%s: done in %.1f s", name, seconds, extra={"facts": facts})

    def advance(self, note: str = "", steps: int = 1) -> None:
        """One unit is done; `note` is shown beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, advance=steps, note=note)
        elif note:
            LOGGER.info("  %s", note)
