"""nnU-Net's own predictor on arrays: preprocess, network with a sliding window, and back onto the reference grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file

from gtvbench.adapters.nnunet.fitting import MODEL_FILE, network_files
from gtvbench.adapters.nnunet.transforms import binarise
from gtvbench.bench.core.errors import BenchError


@dataclass(frozen=True)
class Predictor:
    """The loaded networks behind nnU-Net's predictor. Arrays are (channel, z, y, x)."""

    inner: Any
    preprocessor: Any

    def preprocess(
        self, channels: npt.NDArray[np.float32], spacing_mm: Sequence[float], first_box: int | None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Crop, normalise and resample as in training; box channels are binary again afterwards."""
        # A file holds its spacing as float32, and the plans come from files: the same number must be used here.
        properties = {"spacing": [float(np.float32(s)) for s in spacing_mm]}
        data, _, properties = self.preprocessor.run_case_npy(
            channels, None, properties, self.inner.plans_manager, self.inner.configuration_manager,
            self.inner.dataset_json,
        )  # fmt: skip
        image = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
        return (image if first_box is None else binarise(image, first_box)), properties

    def logits(self, image: torch.Tensor) -> npt.NDArray[Any]:
        """Logits of a preprocessed case, the folds' mean; raises BenchError where the GPU's memory does not suffice."""
        try:
            found: npt.NDArray[Any] = self.inner.predict_logits_from_preprocessed_data(image).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise BenchError(
                "the GPU ran out of memory while predicting",
                remedy="lower 'gpu-memory-gb', which makes the patch smaller, and train again; or predict on the CPU",
            ) from error
        return found

    def label(self, logits: npt.NDArray[Any], properties: dict[str, Any]) -> npt.NDArray[np.uint8]:
        """Label map (z, y, x) with nnU-Net's values on the grid that `preprocess` was given."""
        found: npt.NDArray[Any] = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.inner.plans_manager, self.inner.configuration_manager, self.inner.label_manager, properties,
            num_threads_torch=torch.get_num_threads(),
        )  # fmt: skip
        return np.ascontiguousarray(found, np.uint8)


def load(folder: Path, device: str, *, mirroring: bool, step_size: float, folds: int = 1) -> Predictor:
    """Make the predictor from what `fitting.fit` left in `folder`."""
    model = json.loads((folder / MODEL_FILE).read_text())
    plans = PlansManager(model["plans"])
    configuration = plans.get_configuration(model["configuration"])
    trainer = recursive_find_trainer_class_by_name(model["trainer"])
    network = trainer.build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, model["dataset"]),
        plans.get_label_manager(model["dataset"]).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    weights = [load_file(folder / name) for name in network_files(folds)]
    network.load_state_dict(weights[0])
    inner = nnUNetPredictor(
        tile_step_size=step_size,
        use_mirroring=mirroring,
        device=torch.device(device),
        allow_tqdm=False,
    )
    axes = model["mirroring_axes"]
    inner.manual_initialization(
        network, plans, configuration, weights, model["dataset"], model["trainer"], tuple(axes) if axes else None
    )
    return Predictor(inner, configuration.preprocessor_class(verbose=False))
