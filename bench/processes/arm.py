"""What the processes of one arm do: train, or load and predict case after case; a result is published when it is whole.

Both are works of a pool. Training and prediction run in processes of their own, so that the memory of one is not that
of the other, and nothing passes from `fit` to `load` but files.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.digest import digest_file, seed_from
from gtvbench.bench.core.errors import BenchError, DigestError
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.core.timing import StageClock
from gtvbench.bench.files import nifti
from gtvbench.bench.files.provenance import has_accelerator, origin
from gtvbench.bench.files.store import Store, publish_folder, write_atomically
from gtvbench.bench.processes.recorder import CLOCK_FILE, EpochTable
from gtvbench.bench.processes.worker import Tell
from gtvbench.bench.study import registry


@dataclass(frozen=True)
class ArmJob:
    """An arm as its processes need it, or one `fold` of it (from 1; 0: there are none). `prompted`: whether it sees
    prompts at all."""

    run: Path
    base: Path
    name: str
    adapter: str
    fusion: str
    options: dict[str, Any]
    seed: int
    trains: bool
    prompted: bool
    weights_file: str | None
    weights_sha256: str | None
    structures: dict[str, int]
    modalities: tuple[str, ...]
    device: str
    gpus_per_fit: int
    run_id: str
    fold: int = 0

    @property
    def unit(self) -> str:
        """Name of what is trained once: the arm, or a fold of it. Its own folder lies in the arm's."""
        return f"{self.name}/fold{self.fold}" if self.fold else self.name


@dataclass(frozen=True)
class Item:
    """A case to predict: content key of the step, the digests that its record repeats, and those of `input_files`."""

    case: str
    key: str
    digests: dict[str, Any]
    inputs: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class FitTask:
    """A training: content key of the step, and for each subset its cases with the digests of images, reference and
    prompts (None: unseen)."""

    key: str
    training: tuple[tuple[str, str, str, str | None], ...]
    validation: tuple[tuple[str, str, str, str | None], ...]


@dataclass(frozen=True)
class FitWork:
    """The work of the process that trains an arm."""

    arm: ArmJob

    def open(self) -> _Fitting:
        """Import the method and make it, its generators seeded."""
        return _Fitting(self.arm, *_made(self.arm))


@dataclass(frozen=True)
class PredictWork:
    """The work of the process that predicts with an arm."""

    arm: ArmJob

    def open(self) -> _Predicting:
        """Import the method, make it and load it, its generators seeded."""
        adapter, device = _made(self.arm)
        store = Store(self.arm.run)
        clock = StageClock(_synchroniser(device))
        with clock.measure("load"):
            adapter.load(store.arm_folder(self.arm.unit) / "fit" if self.arm.trains else None)
        return _Predicting(self.arm, adapter, device, store, clock)


@dataclass(frozen=True)
class Begun:
    """The prediction that counts begins: the method is warm, its generators are seeded for the case."""


@dataclass(frozen=True)
class _Fitting:
    arm: ArmJob
    adapter: Any
    device: str

    def perform(self, task: FitTask, tell: Tell) -> dict[str, Any]:
        """Train and publish; the device's peak memory (bytes) and where it ran."""
        arm, store = self.arm, Store(self.arm.run)
        step, final = f"fit/{arm.unit}", store.arm_folder(arm.unit) / "fit"
        store.forget(step)
        work = final.with_name("fit.work")
        marker = work / ".key"
        if not (marker.exists() and marker.read_text() == task.key):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_atomically(marker, task.key)
        training, validation = (
            [_training_case(store, *case) for case in cases] for cases in (task.training, task.validation)
        )
        devices = self.adapter.context.processes
        where = origin(self.device, devices)
        recorder = EpochTable(work, tell, self.adapter.context.options.planned_epochs(), where)
        start = time.perf_counter()
        facts = _plain_facts(self.adapter.fit(training, validation, work, recorder), arm.name)
        seconds = time.perf_counter() - start
        for name in (marker, work / CLOCK_FILE):
            name.unlink(missing_ok=True)
        publish_folder(work, final)
        outputs = sorted(path for path in final.rglob("*") if path.is_file())
        times = {"last_session_seconds": seconds, "preparation_seconds": recorder.preparation_seconds}
        store.finish(step, task.key, outputs, {"facts": facts, **times, "origin": origin(self.device, devices)})
        return {"peak_device_bytes": _peak_device_bytes(self.device), "origin": origin(self.device, devices)}


@dataclass
class _Predicting:
    arm: ArmJob
    adapter: Any
    device: str
    store: Store
    #: Of what is kept apart from the cases: loading, warm-up, throughput.
    apart: StageClock
    warm: bool = False

    def perform(self, item: Item, tell: Tell) -> dict[str, Any]:
        """Predict a case and publish it; the device's peak memory so far (bytes) and where it ran."""
        arm, store = self.arm, self.store
        step = f"predict/{arm.name}/{item.case}"
        store.forget(step)
        images, prompts = _images(store, item.case), _prompts(store, arm, item)
        if images.meta["digest"] != item.digests["images"]:
            raise DigestError("the prepared images are not those that the run planned with", case=item.case)
        options = self.adapter.context.options
        if tuple(input_digests(self.adapter.input_files(options, arm.base, item.case))) != item.inputs:
            raise DigestError(
                f"the files that {arm.name} predicts from changed since the run was planned",
                case=item.case,
                remedy="run again",
            )
        if not self.warm:
            self._warm_up(images, prompts)
        seed_everything(seed_from(arm.seed, item.case))
        tell(Begun())
        clock = StageClock(_synchroniser(self.device))
        with clock.measure("case"):
            found = self.adapter.predict(images, prompts, clock)
        label = _checked_label(found, images, arm)
        path = store.prediction(arm.name, item.case)
        nifti.write_volume(images.to_original(label), images.original, path)
        where = origin(self.device)
        facts = {"digests": item.digests, "sha256": digest_file(path), "timing": clock.rows, "origin": where}
        store.finish(step, item.key, [path], facts)
        return {"peak_device_bytes": _peak_device_bytes(self.device), "origin": where}

    def _warm_up(self, images: Images, prompts: Prompts) -> None:
        """Predict the first case once for nothing, with the prompts of two slices: what later calls do not pay for
        (memory, compilation) is paid for here, the same way for every method."""
        few = Prompts(prompts.case, tuple(box for z in prompts.slices[:2] for box in prompts.in_slice(z)))
        kept = len(self.apart.rows)
        try:
            with self.apart.measure("warmup"):
                self.adapter.predict(images, few, StageClock(_synchroniser(self.device)))
            self.adapter.throughput(images, prompts, self.apart)
        except Exception:
            del self.apart.rows[kept:]
            raise
        path = self.store.arm_folder(self.arm.unit) / "load.json"
        write_atomically(path, json.dumps({"rows": self.apart.rows, "origin": origin(self.device)}) + "\n")
        self.warm = True


def input_digests(files: Sequence[Path]) -> list[str | None]:
    """SHA-256 of each file, None for one that is not there."""
    return [digest_file(path) if path.is_file() else None for path in files]


def _plain_facts(facts: Any, arm: str) -> Any:
    """What `fit` returned, as JSON keeps it; looked at before the work folder is published."""
    try:
        return json.loads(json.dumps(facts, default=lambda value: value.item(), allow_nan=True))
    except (TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"fit() of {arm} returned facts that JSON cannot hold: {error}") from error


def resolve_device(asked: str) -> str:
    """The device behind "auto": CUDA, then MPS, then the CPU; torch is imported only where a GPU may be there."""
    if asked != "auto":
        return asked
    if not has_accelerator():
        return "cpu"
    torch = importlib.import_module("torch")  # not an import statement: the run, which reads this module, has no torch
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _made(arm: ArmJob) -> tuple[Any, str]:
    """The method of an arm, and the device that it runs on."""
    from gtvbench.adapters.base import Context

    device = resolve_device(arm.device)
    seed_everything(arm.seed)
    cls = registry.load(registry.METHODS, arm.adapter)
    context = Context(
        options=cls.Options.model_validate(arm.options),
        structures=structures_from(arm.structures),
        fusion=arm.fusion,
        modalities=arm.modalities,
        device=device,
        seed=arm.seed,
        weights=_checked_weights(arm),
        base=arm.base,
        processes=arm.gpus_per_fit if cls.needs.several_gpus else 1,
    )
    return cls(context), device


def _checked_weights(arm: ArmJob) -> Path | None:
    if arm.weights_file is None:
        return None
    path = Path(arm.weights_file)
    if digest_file(path) != arm.weights_sha256:
        raise DigestError("the weights file changed since the run started", file=path, remedy="run again")
    return path


def _images(store: Store, case: str) -> Images:
    return Images(case, store.case_folder(case))


def _training_case(store: Store, case: str, images: str, reference: str, prompts: str | None) -> TrainingCase:
    found = _images(store, case)
    require_reference(store, case, reference)
    if found.meta["digest"] != images:
        raise DigestError("the prepared images are not those that the run planned with", case=case, remedy="run again")
    return TrainingCase(found, store.reference(case), stored_prompts(store, case, prompts))


def require_reference(store: Store, case: str, digest: str) -> None:
    """Raise DigestError where a case was prepared anew since the run was planned, with another reference."""
    if store.made(f"prepare/{case}").get("reference_digest") != digest:
        raise DigestError("the reference is not the one that the run planned with", case=case, remedy="run again")


def _prompts(store: Store, arm: ArmJob, item: Item) -> Prompts:
    return stored_prompts(store, item.case, item.digests["prompts"] if arm.prompted else None)


def stored_prompts(store: Store, case: str, digest: str | None) -> Prompts:
    """The prompts of a case as they were planned with; without a digest the method sees none."""
    if digest is None:
        return Prompts(case, ())
    path = store.folder / "prompts" / f"{case}.json"
    prompts = Prompts.from_rows(case, json.loads(path.read_text()))
    if prompts.digest != digest:
        raise DigestError("the stored prompts are not those that the run planned with", case=case, file=path)
    return prompts


def _checked_label(label: Any, images: Images, arm: ArmJob) -> Any:
    if not isinstance(label, np.ndarray) or label.shape != images.grid.shape:
        shape = getattr(label, "shape", type(label).__name__)
        raise BenchError(f"{arm.name} returned {shape} instead of a label map of {images.grid.shape}", case=images.case)
    unknown = sorted(set(np.unique(label).tolist()) - {0, *arm.structures.values()})
    if unknown:
        raise BenchError(f"{arm.name} returned unknown label values {unknown}", case=images.case)
    return label.astype(np.uint8, copy=False)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch: torch's at the moment when it is imported, if it ever is."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        return
    sys.meta_path[:] = [_SeedsTorch(seed), *(finder for finder in sys.meta_path if not isinstance(finder, _SeedsTorch))]


class _SeedsTorch(importlib.abc.MetaPathFinder):
    """Finds torch as it would be found, and seeds it after it was imported."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """The spec of torch, with a loader that seeds; None for any other module."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)  # only while others look: a look-up is no import yet
        try:
            spec = importlib.util.find_spec("torch")
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            run: Callable[[ModuleType], None] = spec.loader.exec_module

            def run_and_seed(module: ModuleType) -> None:
                with suppress(ValueError):
                    sys.meta_path.remove(self)
                run(module)
                module.manual_seed(self._seed)

            spec.loader.exec_module = run_and_seed  # type: ignore[method-assign]
        return spec


def _synchroniser(device: str) -> Callable[[], None]:
    def synchronise() -> None:
        torch = sys.modules.get("torch")
        if torch is not None:
            getattr(torch, device).synchronize()

    return synchronise if device != "cpu" else lambda: None


def _peak_device_bytes(device: str) -> int | None:
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch is not None and device == "cuda" else None
