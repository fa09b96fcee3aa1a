"""The clock of prediction: stages are timed with the device synchronised before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class StageClock:
    """Collects one row a measured stage: stage, slice, boxes, seconds (wall time of `time.perf_counter`).

    `synchronise` waits until the device has finished what was queued; on the CPU there is nothing to wait for.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._synchronise = synchronise

    @contextmanager
    def measure(self, stage: str, slice: int = -1, boxes: int = 0) -> Iterator[None]:
        """Time what runs inside `with`; nothing is recorded where it raises."""
        self._synchronise()
        start = time.perf_counter()
        yield
        self._synchronise()
        seconds = time.perf_counter() - start
        self.rows.append({"stage": stage, "slice": slice, "boxes": boxes, "seconds": seconds})
