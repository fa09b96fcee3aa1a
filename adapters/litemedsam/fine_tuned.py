"""LiteMedSAM fine-tuned on the study's training cases (arXiv 2402.17454), then used like the zero-shot arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator

from gtvbench.adapters.base import Needs, Recorder
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.litemedsam.checkpoints import load_model
from gtvbench.adapters.litemedsam.samples import Samples
from gtvbench.adapters.litemedsam.training import BEST_FILE, FineTuning, Protocol
from gtvbench.adapters.litemedsam.zero_shot import ImageOptions, ZeroShot, given_weights
from gtvbench.bench.core.cases import TrainingCase

STUDY_EPOCHS = Protocol.epochs


class FineTuneOptions(ImageOptions):
    """Options of the fine-tuning; the defaults are the study's (training.py).

    `batch` counts (slice, instance) pairs; `margins` are redrawn every epoch in mm; `amp` matters on CUDA only.
    """

    epochs: int = Field(Protocol.epochs, ge=1)
    batch: int = Field(Protocol.batch, ge=1)
    learning_rate: float = Field(Protocol.learning_rate, gt=0, lt=1)
    weight_decay: float = Field(Protocol.weight_decay, ge=0)
    plateau_factor: float = Field(Protocol.plateau_factor, gt=0, lt=1)
    plateau_patience: int = Field(Protocol.plateau_patience, ge=0)
    margins: str = Protocol.margins
    flips: bool = Protocol.flips
    amp: bool = Protocol.amp

    @model_validator(mode="after")
    def _readable(self) -> FineTuneOptions:
        self.protocol()  # an unreadable margin is told when the study is read, not when the fit starts
        return self

    def protocol(self) -> Protocol:
        """The protocol that these options name."""
        names = Protocol.__dataclass_fields__.keys() & type(self).model_fields.keys()
        return Protocol(**{name: getattr(self, name) for name in names})

    def cut(self) -> str | None:
        """Fewer epochs than the study's."""
        return None if self.epochs >= STUDY_EPOCHS else f"{self.epochs} of {STUDY_EPOCHS} epochs"


class FineTuned(ZeroShot):
    """LiteMedSAM after fine-tuning from the weights it is given."""

    needs: ClassVar[Needs] = Needs(trains=True, prompts=("box",), weights="lite_medsam.pth")
    Options: ClassVar[type[BaseOptions]] = FineTuneOptions

    def fit(
        self, training: Sequence[TrainingCase], validation: Sequence[TrainingCase], work: Path, recorder: Recorder
    ) -> dict[str, Any]:
        """Fine-tune, going on from a killed call's checkpoint in `work`."""
        options: FineTuneOptions = self.context.options
        torch.manual_seed(self.context.seed)
        model, _ = load_model(given_weights(self.context), image_size=options.image_size)
        training_samples, validation_samples = (
            Samples(cases, self.context.fusion, options.image_size, options.normalisation, options.batch)
            for cases in (training, validation)
        )
        return FineTuning(
            model,
            training_samples,
            validation_samples,
            options.protocol(),
            folder=work,
            seed=self.context.seed,
            device=torch.device(self.context.device),
        ).run(recorder.epoch)

    def load(self, fit: Path | None) -> None:
        """Load the best epoch's weights."""
        self._load_from(given_weights(self.context) if fit is None else fit / BEST_FILE)
