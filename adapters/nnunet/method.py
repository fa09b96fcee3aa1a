"""The methods `nnunet` and `nnunet-box` (Isensee et al., Nature Methods 18, 2021; package nnunetv2)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gtvbench.adapters.base import Adapter, Clock, LabelMap, Needs, Recorder
from gtvbench.adapters.base import Options as BaseOptions
from gtvbench.adapters.nnunet.boxes import box_channels, groups
from gtvbench.adapters.nnunet.dataset import Layout, translated
from gtvbench.adapters.nnunet.options import NnunetBoxOptions, NnunetOptions, unavailable
from gtvbench.bench.core.cases import CohortFacts, Images, TrainingCase
from gtvbench.bench.core.fusion import FUSIONS
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.files.provenance import usable_cores


class Nnunet(Adapter):
    """nnU-Net v2 without a prompt: it finds the target by itself."""

    needs: ClassVar[Needs] = Needs(trains=True, fusions=("multimodal",), several_gpus=True)
    Options: ClassVar[type[BaseOptions]] = NnunetOptions

    @classmethod
    def skip(cls, options: BaseOptions, cohort: CohortFacts) -> str | None:
        """nnunetv2 is missing, or of a version that this adapter was not tried with; too few patients for the folds."""
        assert isinstance(options, NnunetOptions)
        patients = sum(cohort.patients.get(subset, 0) for subset in ("train", "validation"))
        if cohort.patients and patients < options.folds:
            return f"{options.folds} folds cannot be made of {patients} patients (training and validation together)"
        return unavailable()

    def fit(
        self, training: Sequence[TrainingCase], validation: Sequence[TrainingCase], work: Path, recorder: Recorder
    ) -> dict[str, Any]:
        """Export, plan, preprocess and train, going on from where a killed call was."""
        self._set_environment(work / "nnunet", training=True)
        from gtvbench.adapters.nnunet.fitting import fit

        return fit(
            work, self._layout(), training, validation, self.context.options, recorder,
            seed=self.context.seed, device=self.context.device, cores=usable_cores(), processes=self.context.processes,
        )  # fmt: skip

    def load(self, fit: Path | None) -> None:
        """Load the network and make nnU-Net's predictor."""
        assert fit is not None
        self._scratch = tempfile.TemporaryDirectory(prefix="gtvbench-nnunet-")
        self._set_environment(Path(self._scratch.name), training=False)
        from gtvbench.adapters.nnunet.predictor import load

        options: NnunetOptions = self.context.options
        self._predictor = load(
            fit, self.context.device, mirroring=options.mirroring, step_size=options.step_size, folds=options.folds
        )

    def predict(self, images: Images, prompts: Prompts, clock: Clock) -> LabelMap:
        """One case from start to end; its stages are timed apart."""
        with clock.measure("preprocess"):
            channels = self._channels(images, prompts)
            data, properties = self._predictor.preprocess(channels, images.grid.spacing, self._first_box())
        with clock.measure("segment"):
            logits = self._predictor.logits(data)
        with clock.measure("export"):
            label = self._predictor.label(logits, properties)
            return translated(label, {ours: study for study, ours in self._layout().values.items()})

    def _channels(self, images: Images, prompts: Prompts) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What the network is given, and no more: images and, for `nnunet-box`, boxes; (channel, z, y, x), float32."""
        volumes = [np.asarray(images.raw(m), np.float32) for m in self._layout().modalities]
        return np.stack([*volumes, *self._boxes(images, prompts)])

    def _boxes(self, images: Images, prompts: Prompts) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        return []

    def _layout(self) -> Layout:
        context = self.context
        modalities = FUSIONS[context.fusion].modalities(context.modalities)
        return Layout(modalities, context.structures, self._box_channel_count())

    def _box_channel_count(self) -> int:
        return 0

    def _first_box(self) -> int | None:
        return len(self._layout().modalities) if self._box_channel_count() else None

    def _set_environment(self, root: Path, *, training: bool) -> None:
        from gtvbench.adapters.nnunet.planning import set_environment

        options: NnunetOptions = self.context.options
        cores = usable_cores()
        workers = options.augmentation_workers
        if workers is None:
            workers = min(12, max(1, cores // self.context.processes)) if self.context.device == "cuda" else 0
        set_environment(root, cores, workers if training else 0, options.compile if training else None)


class NnunetBox(Nnunet):
    """nnU-Net v2 with the prompts as one more channel: 1 inside any box of a slice."""

    needs: ClassVar[Needs] = Needs(trains=True, prompts=("box",), fusions=("multimodal",), several_gpus=True)
    Options: ClassVar[type[BaseOptions]] = NnunetBoxOptions

    def _groups(self) -> tuple[tuple[int, ...], ...]:
        return groups(self.context.structures, self.context.options.boxes == "per-structure")

    def _box_channel_count(self) -> int:
        return len(self._groups())

    def _boxes(self, images: Images, prompts: Prompts) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        return list(box_channels(prompts, images.grid.shape, self._groups()).astype(np.float32))
