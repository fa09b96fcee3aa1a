"""LiteMedSAM's network: batched boxes, shapes, and the ways to compute it."""

from __future__ import annotations

import copy
import ctypes
import gc
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gtvbench.adapters.litemedsam import inference
from gtvbench.adapters.litemedsam.inference import Predictor
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.study.weights import CACHE_VARIABLE

SIZE = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> LiteMedSAM:
    """A network whose weights, biases, statistics and attention biases are all random."""
    torch.manual_seed(0)
    built = LiteMedSAM(SIZE)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "attention_biases" in name or parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
    return built.eval()


BOXES = torch.tensor([[3.0, 4, 20, 25], [0, 0, 31, 31], [10, 12, 14, 15]])
OWNERS = torch.tensor([1, 0, 1])


def test_boxes_of_many_images_in_one_batch_equal_segment_anythings_decoder_one_by_one(model: LiteMedSAM) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        embeddings = model.encode(images)
        assert embeddings.shape == (2, 256, SIZE // 4, SIZE // 4)
        logits, iou = model.decode(embeddings[OWNERS], BOXES)
        for i, (box, owner) in enumerate(zip(BOXES, OWNERS, strict=True)):
            sparse, dense = model.prompt_encoder(points=None, boxes=box[None], masks=None)
            expected, expected_iou = model.mask_decoder(
                image_embeddings=embeddings[owner][None],
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            torch.testing.assert_close(logits[i], expected[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(iou[i], expected_iou[0], atol=1e-5, rtol=1e-5)


def test_openvino_and_torch_give_the_same_outputs_and_a_conversion_is_kept(
    model: LiteMedSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        embeddings = model.encode(images)
        logits, overlaps = model.decode(embeddings[OWNERS], BOXES)
    for backend in ("torch", "openvino", "auto"):
        predictor = Predictor(model, CPU, backend=backend)
        assert (predictor.encode(images) - embeddings).abs().max() < 1e-4
        found = predictor.decode(embeddings[OWNERS], BOXES)
        assert (found[0] - logits).abs().max() < 1e-4
        assert (found[1] - overlaps).abs().max() < 1e-4
        monkeypatch.setattr(inference, "_converted", inference._converted if backend == "torch" else None)
    assert sys.modules.get("openvino_telemetry") is None
    assert len(list(tmp_path.glob("cache/openvino/*/network.xml"))) == 2


def signal_stack() -> int | None:
    """Address of this thread's alternate signal stack."""
    found = (ctypes.c_void_p * 3)()
    ctypes.CDLL(None).sigaltstack(None, found)
    return found[0]


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack(2) is asked as Linux lays it out")
def test_predictors_that_end_leave_the_process_no_freed_signal_stack(model: LiteMedSAM) -> None:
    predictors = [Predictor(model, CPU) for _ in range(2)]
    before = signal_stack()
    del predictors
    gc.collect()
    assert signal_stack() == before


def test_another_decoder_leaves_the_encoders_conversion_in_use(model: LiteMedSAM) -> None:
    other = copy.deepcopy(model)
    example = (torch.zeros(1),)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight.add_(1)
    same, different = (
        inference._digest(kind(other), example, "1") == inference._digest(kind(model), example, "1")
        for kind in (inference._Encoder, inference._Decoder)
    )
    assert same and not different


def test_bfloat16_stays_close_and_returns_float32(model: LiteMedSAM) -> None:
    images = torch.rand(1, 3, SIZE, SIZE)
    exact = Predictor(model, CPU, backend="torch").encode(images)
    rough = Predictor(model, CPU, "bfloat16", "torch").encode(images)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().max() > 0
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99


def test_openvino_is_refused_on_another_device(model: LiteMedSAM) -> None:
    with pytest.raises(StudyError, match="openvino does not run on cuda"):
        Predictor(model, torch.device("cuda"), backend="openvino")
