"""The published weights give the published numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gtvbench.adapters.litemedsam.checkpoints import load_model
from gtvbench.adapters.litemedsam.inference import Predictor
from gtvbench.adapters.litemedsam.options import Backend
from gtvbench.adapters.litemedsam.preprocess import Frame, boxes_to_frame, logits_to_probability, slice_to_frame
from gtvbench.bench.study import weights

SHARED = Path(__file__).parents[4] / "shared" / "data"
DATA = Path(os.environ.get("GTVBENCH_TEST_DATA") or SHARED) / "litemedsam_reference"


# That OpenVINO computes what PyTorch does is test_model's; here its conversion at full size takes half a minute.
@pytest.mark.parametrize("backend", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_predicted_overlaps_and_masks_are_those_of_the_official_code(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not DATA.is_dir():
        pytest.skip("the reference image is not here (GTVBENCH_TEST_DATA)")
    monkeypatch.setattr("gtvbench.adapters.litemedsam.inference.cache_folder", lambda: tmp_path)
    model, _ = load_model(weights.locate("lite_medsam.pth").path)
    predictor = Predictor(model, torch.device("cpu"), backend=backend)
    image, boxes = (np.load(DATA / "2DBox_Mammography_demo.npz")[name] for name in ("imgs", "boxes"))
    frame = Frame((image.shape[0], image.shape[1]), 256)
    half_open = boxes[:, [1, 0, 3, 2]] + [0, 0, 1, 1]  # theirs name the last pixel, x before y
    embedding = predictor.encode(torch.from_numpy(slice_to_frame(image, 256))[None])
    logits, overlaps = predictor.decode(
        embedding.expand(len(boxes), -1, -1, -1), torch.from_numpy(boxes_to_frame(half_open, frame))
    )
    published = json.loads((DATA / "expected.json").read_text())["predicted_iou_published"]
    expected = next(numbers for name, numbers in published.items() if name.startswith("fp32 CPU"))
    assert [round(float(overlap), 4) for overlap in overlaps] == expected == [0.8332, 0.8386, 0.8355, 0.7594]
    found = np.zeros(image.shape[:2], np.uint8)
    for number, probability in enumerate(logits_to_probability(logits, frame).numpy(), start=1):
        found[probability > 0.5] = number  # theirs: a later box wins
    official = np.load(DATA / "segs_made_here_with_official_code.npz")["segs"]
    assert np.count_nonzero(found != official) == 0
