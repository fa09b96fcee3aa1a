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
    """What nnU-Net leaves to its user; the defaults are its own.

    `planner`: ExperimentPlanner, nnUNetPlannerResEncM, nnUNetPlannerResEncL or nnUNetPlannerResEncXL, or any class that
    nnU-Net finds by name; `trainer`: nnUNetTrainer or one of its variants; `gpu-memory-gb`: what the planner may fill,
    which decides the patch size; `foreground-voxels`: drawn for the intensity statistics; `augmentation-workers`: None
    for a number that fits the machine (0 on the CPU, where a resumed training is then bitwise equal); `save-every`:
    epochs between resume points, None for a hundredth of the schedule; `checkpoint`: the last epoch, or the one with
    the best moving average of the pseudo-Dice.
    """

    configuration: Literal["2d", "3d_fullres", "3d_lowres"] = "3d_fullres"
    planner: str = "ExperimentPlanner"
    trainer: str = "nnUNetTrainer"
    epochs: int = Field(PROTOCOL_EPOCHS, ge=1)
    iterations: int = Field(PROTOCOL_ITERATIONS, ge=1)
    validation_iterations: int = Field(50, ge=1)
    learning_rate: float = Field(1e-2, gt=0, lt=1)
    gpu_memory_gb: float | None = Field(None, gt=0)
    batch_size: int | None = Field(None, ge=2)
    foreground_voxels: int = Field(100_000_000, ge=10_000)
    checkpoint: Literal["final", "best"] = "final"
    save_every: int | None = Field(None, ge=1)
    compile: bool | None = None
    augmentation_workers: int | None = Field(None, ge=0)
    mirroring: bool = True
    step_size: float = Field(0.5, gt=0, le=1)

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

    def resume_every(self) -> int:
        """Epochs between two resume points."""
        return self.save_every or max(1, self.epochs // 100)


class NnunetBoxOptions(NnunetOptions):
    """Options of the box channel.

    `boxes`: one channel for all boxes (the study's) or one a structure, which tells the network which box is whose;
    `fresh-boxes`: training boxes are drawn anew in every patch, with `margins`, instead of once a case.
    """

    boxes: Literal["one-channel", "per-structure"] = "one-channel"
    fresh_boxes: bool = False
    margins: str = "random-margin(0, 20)"

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
