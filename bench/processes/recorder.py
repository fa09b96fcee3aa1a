"""The recorder that `fit` is given: a row of epochs.csv for every epoch, whole at any moment, resumed or not."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gtvbench.bench.core.events import Epoch
from gtvbench.bench.files.store import write_atomically

CLOCK_FILE = ".clock.json"


class EpochTable:
    """Appends a row to epochs.csv in the work folder of a fit: losses, seconds, and on which device and host.

    An epoch that is resumed in its middle counts the seconds up to the checkpoint that it goes on from; what was
    computed after that checkpoint and is computed again counts once. Where it began on another device or machine, it is
    of device and host "several".
    """

    def __init__(self, work: Path, tell: Callable[[Epoch], None], epochs: int | None, origin: dict[str, Any]) -> None:
        self._path, self._clock = work / "epochs.csv", work / CLOCK_FILE
        self._tell, self._epochs = tell, epochs
        self._origin = {"device": origin["device_name"], "host": origin["host"]}
        self._rows: list[dict[str, Any]] = []
        if self._path.exists():
            with self._path.open(newline="") as stream:
                self._rows = list(csv.DictReader(stream))
        kept = json.loads(self._clock.read_text()) if self._clock.exists() else {"epoch": -1, "seconds": 0.0}
        self._origin_before = {name: kept.get(name, own) for name, own in self._origin.items()}
        self._resumed, self._before = int(kept["epoch"]), float(kept["seconds"])
        self._next = len(self._rows)
        self.preparation_seconds = 0.0
        self._start = time.perf_counter()

    def ready(self) -> None:
        """Count the seconds since fit() was called as preparation."""
        now = time.perf_counter()
        self.preparation_seconds += now - self._start
        self._start = now

    def saved(self) -> None:
        """Keep the seconds of the epoch under way, so that a fit that goes on from this checkpoint counts them."""
        kept = {"epoch": self._next, "seconds": self._seconds(self._next), **self._where(self._next)}
        write_atomically(self._clock, json.dumps(kept))

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        """Record an epoch and the seconds since the one before (or since fit() was ready)."""
        row = {"epoch": epoch, "train_loss": train_loss, "validation_loss": validation_loss}
        row |= {"seconds": self._seconds(epoch), **self._where(epoch), **extra}
        # After a kill the epochs since the last checkpoint come again; the newer row is the one that counts.
        self._rows = [r for r in self._rows if int(r["epoch"]) < epoch] + [row]
        names = list(dict.fromkeys(name for r in self._rows for name in r))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue())
        self._clock.unlink(missing_ok=True)
        self._tell(Epoch(epoch, self._epochs, train_loss, validation_loss))
        self._next, self._resumed = epoch + 1, -1
        self._start = time.perf_counter()

    def _seconds(self, epoch: int) -> float:
        before = self._before if epoch == self._resumed else 0.0
        return before + time.perf_counter() - self._start

    def _where(self, epoch: int) -> dict[str, Any]:
        """Device and host of an epoch; one that began elsewhere is of neither."""
        if epoch != self._resumed or self._origin_before == self._origin:
            return self._origin
        return dict.fromkeys(self._origin, "several")
