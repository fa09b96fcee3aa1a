"""LiteMedSAM's network: batched boxes, folding, shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gtvbench.adapters.litemedsam.fast import FastLiteMedSAM
from gtvbench.adapters.litemedsam.model import LiteMedSAM

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


def test_folded_and_unfolded_outputs_are_equal(model: LiteMedSAM) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = model.encode(images)
        expected_logits, _ = model.decode(expected[OWNERS], BOXES)
    for fold in (True, False):
        fast = FastLiteMedSAM(model, CPU, fold=fold)
        embeddings = fast.encode(images)
        logits, _ = fast.decode(embeddings[OWNERS], BOXES)
        assert (embeddings - expected).abs().max() < 1e-4
        assert (logits - expected_logits).abs().max() < 1e-4
        assert any(isinstance(m, nn.BatchNorm2d) for m in fast.model.modules()) is not fold


def test_folding_leaves_the_given_network_alone(model: LiteMedSAM) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    FastLiteMedSAM(model, CPU)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_bfloat16_stays_close_and_returns_float32(model: LiteMedSAM) -> None:
    images = torch.rand(1, 3, SIZE, SIZE)
    exact = FastLiteMedSAM(model, CPU).encode(images)
    rough = FastLiteMedSAM(model, CPU, "bfloat16").encode(images)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.99
