"""LiteMedSAM on CUDA: the same outputs as on the CPU, mixed precision in training. Skipped where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from gtvbench.adapters.litemedsam.inference import Predictor
from gtvbench.adapters.litemedsam.model import LiteMedSAM
from gtvbench.adapters.litemedsam.training import training_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SIZE = 64
BOXES = torch.tensor([[3.0, 4, 40, 45], [10, 12, 34, 35]])


def test_cuda_and_cpu_give_the_same_masks() -> None:
    torch.manual_seed(0)
    model = LiteMedSAM(SIZE).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    logits = []
    for name in ("cpu", "cuda"):
        predictor = Predictor(model, torch.device(name), backend="torch")
        logits.append(predictor.decode(predictor.encode(images), BOXES)[0].cpu())
    assert (logits[0] - logits[1]).abs().max() < 1e-2  # TF32 convolutions


def test_mixed_precision_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = LiteMedSAM(SIZE).cuda().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    scaler = torch.amp.GradScaler("cuda")
    images = torch.rand(2, 3, SIZE, SIZE, device="cuda")
    masks = torch.zeros(2, 1, SIZE, SIZE, device="cuda")
    masks[:, :, 10:30, 12:33] = 1
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", torch.float16):
            logits, iou = model(images, BOXES.cuda(), torch.arange(2, device="cuda"))
        loss = training_loss(logits.float(), iou.float(), masks)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
