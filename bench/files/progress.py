"""Progress on standard error: bars with the time left on a terminal, log lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

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


class Bar:
    """One phase of work as it is shown: a bar on a terminal, a line at its start and its end elsewhere."""

    def __init__(self, name: str, total: int, progress: Progress | None) -> None:
        self._name, self._progress = name, progress
        self._start = time.monotonic()
        if progress is None:
            LOGGER.info("%s (%d)", name, total, extra={"facts": {"phase": name, "total": total}})
        else:
            self._task = progress.add_task(name, total=total, note="")

    def advance(self, note: str = "", steps: int = 1) -> None:
        """One unit is done; `note` is shown beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, advance=steps, note=note)
        elif note:
            LOGGER.info("  %s: %s", self._name, note)

    def finish(self) -> None:
        """The phase is over."""
        if self._progress is not None:
            self._progress.remove_task(self._task)
        seconds = time.monotonic() - self._start
        facts = {"phase": self._name, "seconds": round(seconds, 3), "finished": True}
        LOGGER.info("%s: done in %.1f s", self._name, seconds, extra={"facts": facts})


class Display:
    """Shows phases of work, several at a time where they run beside each other."""

    def __init__(self, mode: Mode = "auto") -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        if mode == "auto" and self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Bar]:
        """A phase of `total` units of work."""
        with ExitStack() as stack:
            if self._progress is not None and not self._progress.live.is_started:
                stack.enter_context(self._progress)
            bar = Bar(name, total, self._progress)
            yield bar
        bar.finish()
