"""LiteMedSAM fine-tuned on the study's training cases (arXiv 2402.17454), then used like the zero-shot arm."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gtvbench.adapters.base import Needs, Recorder
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.litemedsam.options import BEST_FILE, FineTuneOptions
from gtvbench.adapters.litemedsam.zero_shot import ZeroShot, given_weights
from gtvbench.bench.core.cases import TrainingCase

_log = logging.getLogger(__name__)


class FineTuned(ZeroShot):
    """LiteMedSAM after fine-tuning from the weights it is given."""

    needs: ClassVar[Needs] = Needs(
        trains=True, prompts=("box",), weights="lite_medsam.pth", several_gpus=True, version=2
    )
    Options: ClassVar[type[BaseOptions]] = FineTuneOptions

    def fit(
        self, training: Sequence[TrainingCase], validation: Sequence[TrainingCase], work: Path, recorder: Recorder
    ) -> dict[str, Any]:
        """Fine-tune, going on from a killed call's checkpoint in `work`."""
        from gtvbench.adapters.parallel import together

        context = self.context
        return together(context.processes, context.device, self._fit, training, validation, work, recorder=recorder)

    def _fit(
        self,
        training: Sequence[TrainingCase],
        validation: Sequence[TrainingCase],
        work: Path,
        recorder: Recorder,
        device: str,
    ) -> dict[str, Any]:
        """One rank's part; `device` is its own."""
        import torch

        from gtvbench.adapters.litemedsam.checkpoints import load_model
        from gtvbench.adapters.litemedsam.embeddings import Embeddings
        from gtvbench.adapters.litemedsam.samples import Samples
        from gtvbench.adapters.litemedsam.training import FineTuning
        from gtvbench.adapters.parallel import wait_for_ranks

        self.context = replace(self.context, device=device)
        options: FineTuneOptions = self.context.options
        torch.manual_seed(self.context.seed)
        model, _ = load_model(given_weights(self.context), image_size=options.image_size)
        kept = None
        if options.train == "decoder":
            self.load(None)
            limit = int(options.embeddings_gb * 1e9)
            kept = Embeddings([*training, *validation], self._embedding, work / "embeddings", limit)
        training_samples, validation_samples = (
            Samples(cases, self.context.fusion, options.image_size, options.normalisation, options.batch, kept)
            for cases in (training, validation)
        )
        tuning = FineTuning(
            model,
            training_samples,
            validation_samples,
            options.protocol(),
            folder=work,
            seed=self.context.seed,
            device=torch.device(device),
        )
        if kept is not None and not tuning.finished:
            left = kept.prepare() if tuning.rank == 0 else 0
            wait_for_ranks()
            if left:
                _log.warning("%d slices do not fit into embeddings-gb and are embedded in every epoch", left)
        recorder.ready()
        facts = tuning.run(recorder)
        if tuning.rank == 0:
            shutil.rmtree(work / "embeddings", ignore_errors=True)
        return facts

    def _embedding(self, case: TrainingCase, z: int) -> npt.NDArray[np.float32]:
        """The embedding (256, s, s) of one slice, by the encoder that predicts."""
        found = self.encode(case.images.fused_slice(self.context.fusion, z)[None]).tensors[0]
        return np.asarray(found.cpu().numpy(), np.float32)

    def load(self, fit: Path | None) -> None:
        """Load the best epoch's weights."""
        self._load_from(given_weights(self.context) if fit is None else fit / BEST_FILE)
