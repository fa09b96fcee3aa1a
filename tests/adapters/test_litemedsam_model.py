"""LiteMedSAM's network: batched boxes, shapes, and the ways to compute it."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gtvbench.adapters.litemedsam.inference import Predictor, _digest
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.weights import CACHE_VARIABLE

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


def test_boxes_of_many_images_in_one_batch_equal_segment_anythings_decoder_one_by_one(
    model: LiteMedSAM,
) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        embeddings = model.encode(images)
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


def test_the_encoder_keeps_a_quarter_of_the_resolution(model: LiteMedSAM) -> None:
    with torch.no_grad():
        assert model.encode(torch.rand(1, 3, SIZE, SIZE)).shape == (1, 256, SIZE // 4, SIZE // 4)


def test_openvino_and_torch_give_the_same_embeddings(
    model: LiteMedSAM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = model.encode(images)
    assert (Predictor(model, CPU, backend="torch").encode(images) - expected).abs().max() < 1e-5
    assert (Predictor(model, CPU).encode(images) - expected).abs().max() < 1e-4
    assert sys.modules.get("openvino_telemetry") is None
    (kept,) = tmp_path.glob("cache/openvino/*/encoder.xml")
    monkeypatch.setattr("gtvbench.adapters.litemedsam.inference._converted", None)  # a second conversion would fail
    assert (Predictor(model, CPU, backend="openvino").encode(images) - expected).abs().max() < 1e-4
    assert list(tmp_path.glob("cache/openvino/*/encoder.xml")) == [kept]


def test_another_encoder_gets_a_conversion_of_its_own_and_another_decoder_does_not(model: LiteMedSAM) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.mask_decoder.iou_token.weight.add_(1)
    assert _digest(other, "1") == _digest(model, "1")
    with torch.no_grad():
        other.neck[0].weight.add_(1)
    assert _digest(other, "1") != _digest(model, "1")


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
