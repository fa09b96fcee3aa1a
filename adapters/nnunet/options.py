"""Options of the nnU-Net methods, free of torch and nnunetv2 so that they can be listed quickly."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Literal

from pydantic import Field, field_validator

from gtvbench.adapters.base import Options
from gtvbench.bench.core.prompts import policy_from

#: nnunetv2 versions that this adapter was tried with: [first, last), as (major, minor).
TESTED = ((2, 8), (2, 9))

#: nnU-Net's own schedule (Isensee et al., Nature Methods 18, 2021).
PROTOCOL_EPOCHS = 1000
PROTOCOL_ITERATIONS = 250

_NAME = re.compile(r"[A-Za-z_]\w*")


class NnunetOptions(Options):
    """Options of nnU-Net; the defaults are nnU-Net's own."""

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] = "3d_fullres"
    """Network to train (no cascade). One that nnU-Net did not plan is an error."""
    planner: str = "ExperimentPlanner"
    """`ExperimentPlanner`, `nnUNetPlannerResEncM`, `nnUNetPlannerResEncL`, `nnUNetPlannerResEncXL`, or any class that
    nnU-Net finds by name."""
    trainer: str = "nnUNetTrainer"
    """`nnUNetTrainer` or one of its variants, by name. The options here win over what the variant sets."""
    folds: int = Field(1, ge=1)
    """Networks to train, which predict by the mean of their logits. 1: one network, on the training cases. More:
    training and validation cases are divided into as many parts, as nnU-Net does it, and each network is validated on
    one part and trained on the others. nnU-Net's own default is 5."""
    epochs: int = Field(PROTOCOL_EPOCHS, ge=1)
    """Length of the training, of each network."""
    iterations: int = Field(PROTOCOL_ITERATIONS, ge=1)
    """Training steps in an epoch."""
    validation_iterations: int = Field(50, ge=1)
    """Validation steps in an epoch."""
    learning_rate: float = Field(1e-2, gt=0, lt=1)
    """At the start of the training."""
    gpu_memory_gb: float | None = Field(None, gt=0)
    """GPU memory that the planner may fill; it decides the patch size. Without this key: the planner's own (8)."""
    batch_size: int | None = Field(None, ge=2)
    """In place of the planned batch size."""
    foreground_voxels: int = Field(100_000_000, ge=10_000)
    """Voxels drawn for the intensity statistics. 1e8 takes about 7 GB of memory, whatever the data."""
    checkpoint: Literal["final", "best"] = "final"
    """Weights that predict: of the last epoch, or of the best moving average of the pseudo-Dice."""
    save_every: int | None = Field(None, ge=1)
    """Epochs between points from which a stopped training goes on. Without this key: a hundredth of `epochs`."""
    compile: bool | None = None
    """Use torch.compile in training. Without this key: nnU-Net's own choice (on CUDA)."""
    augmentation_workers: int | None = Field(None, ge=0)
    """Processes that augment. Without this key: 0 on a CPU, a number that fits the machine on a GPU. With 0 a training
    can be repeated exactly, also after a stop."""
    mirroring: bool = True
    """Predict mirrored images too, and average."""
    step_size: float = Field(0.5, gt=0, le=1)
    """Step of the sliding window, as a share of the patch."""

    @field_validator("planner", "trainer")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a class")
        return name

    def cut(self) -> str | None:
        """Fewer epochs or iterations than nnU-Net's protocol, or a planner held below its usual patch size."""
        short = []
        if self.epochs < PROTOCOL_EPOCHS:
            short.append(f"{self.epochs} of {PROTOCOL_EPOCHS} epochs")
        if self.iterations < PROTOCOL_ITERATIONS:
            short.append(f"{self.iterations} of {PROTOCOL_ITERATIONS} iterations an epoch")
        if self.gpu_memory_gb is not None and self.gpu_memory_gb < 8:
            short.append(f"planned for {self.gpu_memory_gb:g} of 8 GB")
        return ", ".join(short) or None

    def planned_epochs(self) -> int:
        """Those of all folds."""
        return self.folds * self.epochs

    def resume_every(self) -> int:
        """Epochs between two resume points."""
        return self.save_every or max(1, self.epochs // 100)


class NnunetBoxOptions(NnunetOptions):
    """Options of nnU-Net with boxes."""

    boxes: Literal["one-channel", "per-structure"] = "one-channel"
    """`one-channel`: one channel for all boxes, as in the study. `per-structure`: one for each structure, which tells
    the network which box is whose."""
    fresh_boxes: bool = False
    """Draw the boxes of training cases anew in every patch, not once for each case."""
    margins: str = "random-margin(0, 20)"
    """With `fresh-boxes`: margins of these boxes; a prompt policy."""

    @field_validator("margins")
    @classmethod
    def _is_policy(cls, margins: str) -> str:
        policy_from(margins)
        return margins


def unavailable() -> str | None:
    """Why nnU-Net cannot run here: not installed, or of a version that this adapter was not tried with."""
    try:
        version = importlib.metadata.version("nnunetv2")
    except importlib.metadata.PackageNotFoundError:
        return f"nnunetv2 is not installed (pip install '{_wanted()}')"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not TESTED[0] <= numbers < TESTED[1]:
        return f"nnunetv2 {version} is installed, which was not tried with gtvbench (pip install '{_wanted()}')"
    return None


def _wanted() -> str:
    (a, b), (c, d) = TESTED
    return f"nnunetv2>={a}.{b},<{c}.{d}"
