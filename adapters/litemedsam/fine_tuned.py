"""LiteMedSAM fine-tuned on the study's training cases (arXiv 2402.17454), then used like the zero-shot arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from gtvbench.adapters.base import Needs, Recorder
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.litemedsam.options import BEST_FILE, FineTuneOptions
from gtvbench.adapters.litemedsam.zero_shot import ZeroShot, given_weights
from gtvbench.bench.core.cases import TrainingCase


class FineTuned(ZeroShot):
    """LiteMedSAM after fine-tuning from the weights it is given."""

    needs: ClassVar[Needs] = Needs(trains=True, prompts=("box",), weights="lite_medsam.pth")
    Options: ClassVar[type[BaseOptions]] = FineTuneOptions

    def fit(
        self, training: Sequence[TrainingCase], validation: Sequence[TrainingCase], work: Path, recorder: Recorder
    ) -> dict[str, Any]:
        """Fine-tune, going on from a killed call's checkpoint in `work`."""
        import torch

        from gtvbench.adapters.litemedsam.checkpoints import load_model
        from gtvbench.adapters.litemedsam.samples import Samples
        from gtvbench.adapters.litemedsam.training import FineTuning

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
