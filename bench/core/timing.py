"""What times a method: the record of its epochs, and the clock of its stages, the device synchronised around each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Recorder(Protocol):
    """Receives one call an epoch while a method is trained; the harness takes the time between calls."""

    def ready(self) -> None:
        """Say, where there is anything to prepare, that it is done: the time before counts to no epoch."""
        ...

    def saved(self) -> None:
        """Say that a checkpoint was saved within an epoch: a fit that goes on from it counts the time until here."""
        ...

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        """Epoch counts from 0; call it before the checkpoint is saved, so that a kill repeats an epoch."""
        ...


class Clock(Protocol):
    """Times a stage of prediction, the device synchronised before and after."""

    def measure(self, stage: str, slice: int = -1, boxes: int = 0) -> AbstractContextManager[None]:
        """Time what runs inside `with`; `slice` -1 stands for the whole volume."""
        ...


class StageClock:
    """Collects one row a measured stage: stage, slice, boxes, seconds (wall time of `time.perf_counter`).

    `synchronise` waits until the device has finished what was queued; on the CPU there is nothing to wait for.
    """

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self.rows: list[dict[str, Any]] = []
        self._synchronise = synchronise

    @contextmanager
    def measure(self, stage: str, slice: int = -1, boxes: int = 0) -> Iterator[None]:
        """Time what runs inside `with`; a stage that raises is recorded as well, with the time until then."""
        self._synchronise()
        start = time.perf_counter()
        try:
            yield
            self._synchronise()
        finally:
            seconds = time.perf_counter() - start
            self.rows.append({"stage": stage, "slice": slice, "boxes": boxes, "seconds": seconds})
