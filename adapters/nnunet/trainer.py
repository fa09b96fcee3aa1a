"""nnU-Net's own trainer, seeded, resumable at any moment, recorded, and without its pictures."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.nn.parallel import DistributedDataParallel

from gtvbench.adapters.nnunet.transforms import FreshBoxes, validation_with_boxes, with_boxes
from gtvbench.bench.core.digest import seed_from
from gtvbench.bench.core.errors import BenchError

LATEST, BEST, FINAL = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth"

Record = Callable[..., None]
#: What NumPy's numbers, of which nnU-Net's log is full, are pickled with: their maker, and their types.
_NUMBERS: list[Any] = [
    np.float64(0).__reduce__()[0],
    np.dtype,
    *(type(np.dtype(n)) for n in ("float32", "float64", "int64")),
]


@dataclass(frozen=True)
class Hooks:
    """What gtvbench adds to a trainer: seed, record of epochs, and the box channels (`first_box` None: none)."""

    seed: int
    record: Record
    resume_every: int
    structures: tuple[str, ...]
    first_box: int | None = None
    fresh: FreshBoxes | None = None


class _Ours:
    """Mixed into a trainer class; it has no __init__, because nnU-Net inspects the signature of that."""

    hooks: Hooks

    def initialize(self) -> None:
        """nnU-Net's own, which names a GPU to the wrapper that several ranks need; on a CPU there is none to name."""
        wrapper = _on_cpu if self.device.type == "cpu" else nnUNetTrainer.DDP
        with patch.object(nnUNetTrainer, "DDP", wrapper):
            super().initialize()  # type: ignore[misc]

    def on_epoch_start(self) -> None:
        """Seed from the arm's seed, the epoch and the rank, so that a resumed training draws what an uninterrupted one
        did, and no two ranks draw the same."""
        rank = [self.local_rank] if self.local_rank else []  # the first draws what a training without others does
        seed_everything(seed_from(self.hooks.seed, "epoch", self.current_epoch, *rank))
        super().on_epoch_start()  # type: ignore[misc]

    def on_epoch_end(self) -> None:
        """Record the epoch, then let nnU-Net save: a kill in between repeats the epoch."""
        log, epoch = self.logger, self.current_epoch
        dice = [float(value) for value in log.get_value("dice_per_class_or_region", step=-1)]
        extra = {f"pseudo_dice {name}": value for name, value in zip(self.hooks.structures, dice, strict=True)}
        train, validation = (float(log.get_value(name, step=-1)) for name in ("train_losses", "val_losses"))
        if not np.isfinite(train):
            raise FloatingPointError(f"the training loss of epoch {epoch + 1} is {train}")
        self.hooks.record(epoch, train, validation, **extra)
        super().on_epoch_end()  # type: ignore[misc]

    def save_checkpoint(self, filename: str) -> None:
        """Save whole or not at all, in the first rank."""
        if self.local_rank:
            return
        part = f"{filename}.part"
        super().save_checkpoint(part)  # type: ignore[misc]
        Path(part).replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on from a resume point that holds nothing but data: nnU-Net itself would run what code it holds."""
        read_checkpoint(Path(filename_or_checkpoint), device="meta")
        super().load_checkpoint(filename_or_checkpoint)  # type: ignore[misc]

    def get_training_transforms(self, *args: Any, **options: Any) -> Any:
        """nnU-Net's pipeline, with the box channels kept boxes."""
        pipeline = super().get_training_transforms(*args, **options)  # type: ignore[misc]
        if get_allowed_n_proc_DA() == 0:
            _never_benchmark(pipeline)
        first = self.hooks.first_box
        return pipeline if first is None else with_boxes(pipeline, first, self.hooks.fresh)

    def get_validation_transforms(self, *args: Any, **options: Any) -> Any:
        """As `get_training_transforms`."""
        pipeline = super().get_validation_transforms(*args, **options)  # type: ignore[misc]
        first = self.hooks.first_box
        return pipeline if first is None else validation_with_boxes(pipeline, first, self.hooks.fresh)

    def plot_network_architecture(self) -> None:
        """No picture."""

    def _save_debug_information(self) -> None:
        """No file with the name of the machine."""

    # Attributes of nnU-Net's trainer that the methods above use.
    current_epoch: int
    device: torch.device
    local_rank: int
    logger: Any


def _on_cpu(network: torch.nn.Module, device_ids: list[int]) -> torch.nn.Module:
    return DistributedDataParallel(network)


def _never_benchmark(pipeline: Any) -> None:
    """Keep transforms from choosing between two ways of computing by their speed: the ways differ in the last bits.

    Without augmentation workers a training is promised to be repeatable; the blur times both ways and takes the faster.
    """
    for step in pipeline.transforms:
        inner = getattr(step, "transform", step)
        if hasattr(inner, "benchmark"):
            inner.benchmark = False


def trainer_of(base: type[Any]) -> type[Any]:
    """A trainer class of nnU-Net with our additions."""
    return type(f"Recorded{base.__name__}", (_Ours, base), {})


def read_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
    """A checkpoint of nnU-Net, its tensors on `device` ("meta": unread), without running any code that it may hold."""
    with torch.serialization.safe_globals(_NUMBERS):
        try:
            found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise BenchError(
                f"the checkpoint is damaged, or holds more than data: {str(error).splitlines()[0]}",
                file=path,
                remedy="remove the folder 'fit.work' of the arm: its training begins anew",
            ) from error
    return found


def train(trainer: Any, folder: Path) -> None:
    """Train to the end, from the newest resume point in `folder` where there is one."""
    trainer.logger.plot_progress_png = lambda output_folder: None
    trainer.save_every = trainer.hooks.resume_every
    seed_everything(trainer.hooks.seed)
    trainer.initialize()
    newest = next((folder / name for name in (FINAL, LATEST, BEST) if (folder / name).exists()), None)
    if newest is not None:
        trainer.load_checkpoint(str(newest))
    if trainer.current_epoch < trainer.num_epochs:
        trainer.run_training()


def seed_everything(seed: int) -> None:
    """Seed every generator that nnU-Net draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
