"""Options of the LiteMedSAM methods and the fine-tuning protocol, free of torch so that they can be listed quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from gtvbench.adapters.base import Options
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.prompts import policy_from

Normalisation = Literal["min-max", "fixed"]
Precision = Literal["float32", "bfloat16"]
Backend = Literal["auto", "torch", "openvino"]
Train = Literal["all", "decoder"]

BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Protocol:
    """The numbers of a fine-tuning; the defaults are the study's, flips and weight decay LiteMedSAM's own."""

    epochs: int = 20
    batch: int = 8
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    plateau_factor: float = 0.9
    plateau_patience: int = 5
    margins: str = "random-margin(0, 20)"
    train: Train = "all"
    flips: bool = True
    amp: bool = True
    embeddings_gb: float = 8.0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} is {getattr(self, name)}", remedy="use a whole number from 1")
        if not 0 < self.learning_rate < 1:
            raise StudyError(f"learning_rate is {self.learning_rate}", remedy="use a small positive number, say 3e-4")
        if self.train == "decoder" and self.flips:
            raise StudyError(
                "a frozen encoder embeds every slice once, which leaves no flips",
                remedy="leave 'flips' out, or use train: all",
            )
        policy_from(self.margins)


STUDY_EPOCHS = Protocol.epochs


class ImageOptions(Options):
    """Options of every LiteMedSAM method."""

    image_size: int = Field(256, ge=8, multiple_of=4)
    """Side of the network's frame in pixels."""
    normalisation: Normalisation = "min-max"
    """`min-max`: each slice by its own extremes, jointly over its channels, as LiteMedSAM was trained. `fixed`: by 255.
    """
    precision: Precision = "float32"
    """Of the encoder; the decoder always runs in float32. `bfloat16` is refused on a CPU without units for it."""
    backend: Backend = "auto"
    """What predicts. `auto`: OpenVINO on a CPU, PyTorch elsewhere. Masks are the same. `openvino` runs on a CPU only.
    """


class FineTuneOptions(ImageOptions):
    """Options of the fine-tuning; the defaults are the study's."""

    epochs: int = Field(Protocol.epochs, ge=1)
    """Passes over the training data."""
    batch: int = Field(Protocol.batch, ge=1)
    """Pairs of slice and instance in a step."""
    learning_rate: float = Field(Protocol.learning_rate, gt=0, lt=1)
    """At the start of the training."""
    weight_decay: float = Field(Protocol.weight_decay, ge=0)
    """Of the optimiser (AdamW)."""
    plateau_factor: float = Field(Protocol.plateau_factor, gt=0, lt=1)
    """The learning rate is multiplied by this where the validation Dice loss no longer falls (ReduceLROnPlateau)."""
    plateau_patience: int = Field(Protocol.plateau_patience, ge=0)
    """Epochs without improvement before that."""
    margins: str = Protocol.margins
    """Margins of the training boxes, which are drawn anew in every epoch; a prompt policy."""
    train: Train = Protocol.train
    """`all`: the whole network, as the study did. `decoder`: the mask decoder alone, for people without a GPU."""
    flips: bool | None = None
    """Flip slices with probability 0.5. On with `train: all`; not possible with `train: decoder`."""
    amp: bool = Protocol.amp
    """Train in half precision where that is faster: float16 on CUDA, bfloat16 on a CPU with units for it."""
    embeddings_gb: float = Field(Protocol.embeddings_gb, ge=0)
    """Disk space for embeddings with `train: decoder`. What does not fit is embedded anew in every epoch."""

    @model_validator(mode="after")
    def _readable(self) -> FineTuneOptions:
        self.protocol()  # an unreadable margin is told when the study is read, not when the fit starts
        return self

    def protocol(self) -> Protocol:
        """The protocol that these options name."""
        names = Protocol.__dataclass_fields__.keys() & type(self).model_fields.keys()
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return Protocol(**{"flips": self.train == "all", **given})

    def cut(self) -> str | None:
        """Less of the network than the study's, or fewer epochs."""
        short = ["decoder alone"] if self.train == "decoder" else []
        short += [f"{self.epochs} of {STUDY_EPOCHS} epochs"] if self.epochs < STUDY_EPOCHS else []
        return ", ".join(short) or None
