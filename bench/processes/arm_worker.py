"""The process of one arm: it trains, predicts case after case, and publishes each result as soon as it is whole.

It is started by local.py with a job file, writes events as JSON lines to the pipe it is given, and dies with its
parent: an orphan must never write beside its successor.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.errors import BenchError, DigestError
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.core.timing import StageClock
from gtvbench.bench.files import nifti
from gtvbench.bench.files.provenance import has_accelerator
from gtvbench.bench.files.store import Store, publish_folder, write_atomically
from gtvbench.bench.processes.lifeline import die_with_parent, killed_with, peak_host_bytes
from gtvbench.bench.study import registry


class Events:
    """Writes events to the parent, one JSON object a line."""

    def __init__(self, descriptor: int) -> None:
        self._stream = os.fdopen(descriptor, "w", buffering=1)

    def send(self, event: str, **facts: Any) -> None:
        """Send one event; a parent that is gone ends this process by other means."""
        self._stream.write(json.dumps({"event": event, **facts}) + "\n")


class EpochTable:
    """The recorder given to fit(): appends a row an epoch to epochs.csv, whole at any moment."""

    def __init__(self, path: Path, events: Events, epochs: int | None) -> None:
        self._path = path
        self._events = events
        self._epochs = epochs
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as stream:
                self._rows = list(csv.DictReader(stream))
        self.preparation_seconds = 0.0
        self._start = time.perf_counter()

    def ready(self) -> None:
        """Count the seconds since fit() was called as preparation."""
        now = time.perf_counter()
        self.preparation_seconds += now - self._start
        self._start = now

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        """Record an epoch and the seconds since the one before (or since fit() was called)."""
        now = time.perf_counter()
        row = {"epoch": epoch, "train_loss": train_loss, "validation_loss": validation_loss}
        row |= {"seconds": now - self._start, **extra}
        # After a kill the epochs since the last checkpoint come again; the newer row is the one that counts.
        self._rows = [r for r in self._rows if int(r["epoch"]) < epoch] + [row]
        names = list(dict.fromkeys(name for r in self._rows for name in r))
        text = io.StringIO()
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self._path, text.getvalue())
        self._events.send("epoch", epoch=epoch, epochs=self._epochs, train=train_loss, validation=validation_loss)
        self._start = time.perf_counter()


def main() -> int:
    """Run one job: `python -m gtvbench.bench.processes.arm_worker JOB EVENTS_DESCRIPTOR PARENT_PID`."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    die_with_parent(int(sys.argv[3]))
    events = Events(int(sys.argv[2]))
    job["device"] = resolve_device(job["device"])
    try:
        run_job(job, events)
    except Exception as error:
        events.send("arm-failed", message=_message(error), traceback=traceback.format_exc())
        return 1
    events.send(
        "done",
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=_peak_device_bytes(job["device"]),
        device=job["device"],
    )
    return 0


def resolve_device(asked: str) -> str:
    """The device behind "auto": CUDA, then MPS, then the CPU; torch is imported only where a GPU may be there."""
    if asked != "auto":
        return asked
    if not has_accelerator():
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def run_job(job: dict[str, Any], events: Events) -> None:
    """Fit where asked, then predict every case that is asked for."""
    from gtvbench.adapters.base import Context

    store = Store(Path(job["run"]))
    arm = job["arm"]
    _seed_everything(arm["seed"])
    cls = registry.load(registry.METHODS, arm["adapter"])
    context = Context(
        options=cls.Options.model_validate(arm["options"]),
        structures=structures_from(job["structures"]),
        fusion=arm["fusion"],
        modalities=tuple(job["modalities"]),
        device=job["device"],
        seed=arm["seed"],
        weights=_checked_weights(arm),
        base=Path(job["base"]),
    )
    fitted = store.arm_folder(arm["name"]) / "fit"
    if job["fit"] is not None:
        _fit(cls(context), job, store, events, fitted)
        _seed_everything(arm["seed"])
    if not job["predict"]:
        return
    adapter = cls(context)
    clock = StageClock(_synchroniser(job["device"]))
    with clock.measure("load"):
        adapter.load(fitted if arm["trains"] else None)
    events.send("loaded")
    first = job["predict"][0]
    adapter.warm_up(_images(store, first["case"]), _prompts(store, arm, first), clock)
    write_atomically(store.arm_folder(arm["name"]) / "load.json", json.dumps(clock.rows) + "\n")
    _predict(adapter, job, store, events)


def _fit(adapter: Any, job: dict[str, Any], store: Store, events: Events, final: Path) -> None:
    arm, plan = job["arm"], job["fit"]
    step = f"fit/{arm['name']}"
    store.forget(step)
    work = final.with_name("fit.work")
    marker = work / ".key"
    if not (marker.exists() and marker.read_text() == plan["key"]):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_atomically(marker, plan["key"])
    events.send("fit-started")
    training, validation = (
        [
            TrainingCase(_images(store, item["case"]), store.reference(item["case"]), _stored_prompts(store, item))
            for item in plan[subset]
        ]
        for subset in ("training", "validation")
    )
    recorder = EpochTable(work / "epochs.csv", events, arm["options"].get("epochs"))
    start = time.perf_counter()
    facts = adapter.fit(training, validation, work, recorder)
    seconds = time.perf_counter() - start
    marker.unlink()
    publish_folder(work, final)
    outputs = sorted(path for path in final.rglob("*") if path.is_file())
    times = {"last_session_seconds": seconds, "preparation_seconds": recorder.preparation_seconds}
    store.finish(step, plan["key"], outputs, {"facts": facts, **times})
    events.send("fit-done", seconds=seconds)


def _predict(adapter: Any, job: dict[str, Any], store: Store, events: Events) -> None:
    """Predict every case of the job; a failed one is an event, not the end."""
    items = {item["case"]: item for item in job["predict"]}
    clocks: dict[str, StageClock] = {}

    def tasks() -> Iterator[tuple[Images, Prompts, StageClock]]:
        for case, item in items.items():
            events.send("case-started", case=case)
            try:
                store.forget(f"predict/{job['arm']['name']}/{case}")
                prompts = _prompts(store, job["arm"], item)
            except Exception as error:
                _failed(case, error, events)
                continue
            clocks[case] = StageClock(_synchroniser(job["device"]))
            yield _images(store, case), prompts, clocks[case]

    for case, found in adapter.predictions(tasks()):
        try:
            if isinstance(found, Exception):
                raise found
            _publish(found, job, items[case], store, clocks[case].complete())
        except Exception as error:
            _failed(case, error, events)
        else:
            events.send("case-done", case=case)


def _failed(case: str, error: Exception, events: Events) -> None:
    events.send("case-failed", case=case, message=_message(error), traceback="".join(traceback.format_exception(error)))


def _publish(found: Any, job: dict[str, Any], item: dict[str, Any], store: Store, timing: list[dict[str, Any]]) -> None:
    arm, case = job["arm"]["name"], item["case"]
    images = _images(store, case)
    label = _checked_label(found, images, job["structures"], arm)
    path = store.prediction(arm, case)
    nifti.write_volume(images.to_original(label), images.original, path)
    facts = {"digests": item["digests"], "sha256": digest_file(path), "timing": timing}
    store.finish(f"predict/{arm}/{case}", item["key"], [path], facts)


def _checked_label(label: Any, images: Images, structures: dict[str, int], arm: str) -> Any:
    if not isinstance(label, np.ndarray) or label.shape != images.grid.shape:
        shape = getattr(label, "shape", type(label).__name__)
        raise BenchError(f"{arm} returned {shape} instead of a label map of {images.grid.shape}", case=images.case)
    unknown = sorted(set(np.unique(label).tolist()) - {0, *structures.values()})
    if unknown:
        raise BenchError(f"{arm} returned unknown label values {unknown}", case=images.case)
    return label.astype(np.uint8, copy=False)


def _checked_weights(arm: dict[str, Any]) -> Path | None:
    if arm["weights_file"] is None:
        return None
    path = Path(arm["weights_file"])
    if digest_file(path) != arm["weights_sha256"]:
        raise DigestError("the weights file changed since the run started", file=path, remedy="run again")
    return path


def _images(store: Store, case: str) -> Images:
    return Images(case, store.case_folder(case))


def _prompts(store: Store, arm: dict[str, Any], item: dict[str, Any]) -> Prompts:
    return _stored_prompts(store, item) if arm["prompts"] else Prompts(item["case"], ())


def _stored_prompts(store: Store, item: dict[str, Any]) -> Prompts:
    path = store.folder / "prompts" / f"{item['case']}.json"
    prompts = Prompts.from_rows(item["case"], json.loads(path.read_text()))
    if prompts.digest != item["digests"]["prompts"]:
        raise DigestError("the stored prompts are not those that the run planned with", case=item["case"], file=path)
    return prompts


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _synchroniser(device: str) -> Callable[[], None]:
    torch = sys.modules.get("torch")
    if torch is None or device == "cpu":
        return lambda: None
    synchronise: Callable[[], None] = getattr(torch, device).synchronize
    return synchronise


def _peak_device_bytes(device: str) -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and device == "cuda" else None


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


if __name__ == "__mp_main__":  # a process that a method spawned imports the main module under this name
    killed_with(None)

if __name__ == "__main__":
    sys.exit(main())
