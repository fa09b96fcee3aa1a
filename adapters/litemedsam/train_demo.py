"""Trains the demo weights: the real LiteMedSAM architecture, from scratch, on procedural shapes only.

    python -m gtvbench.adapters.litemedsam.train_demo --out FOLDER --iterations 3000

Kill it at any moment and start it again: it goes on from the last checkpoint. A different ``--iterations`` at a resume
moves the end of the learning-rate decay, so a run can be cut short. At the end FOLDER holds
``demo_weights.safetensors`` (float16, the official flat keys) and ``demo_weights.json`` with the recipe and the overlap
measured on fresh shapes.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gtvbench.adapters.litemedsam.checkpoints import load_model, save_flat
from gtvbench.adapters.litemedsam.model import LiteMedSAM, forget_cached_biases
from gtvbench.adapters.litemedsam.preprocess import Frame, boxes_to_frame, slice_to_frame
from gtvbench.adapters.litemedsam.samples import Batch
from gtvbench.adapters.litemedsam.shapes import MARGIN_MM, PIXEL_MM, SIDE, ShapeSlice, draw_slice
from gtvbench.bench.core.digest import digest_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights, written beside them."""

    iterations: int = 3000
    slices: int = 8
    boxes_per_slice: int = 4
    peak_lr: float = 8e-4
    weight_decay: float = 0.02
    warmup: int = 100
    average: float = 0.995
    seed: int = 1


def make_batch(slices: list[ShapeSlice], most: int, rng: np.random.Generator | None = None) -> Batch:
    """Collate at most ``most`` objects per slice; with ``rng``, choose them at random and turn and flip the slice."""
    images, boxes, masks, owners = [], [], [], []
    for number, drawn in enumerate(slices):
        count = len(drawn.masks)
        chosen = np.arange(count)[:most] if rng is None else rng.permutation(count)[:most]
        images.append(slice_to_frame(drawn.image, SIDE))
        masks.append(drawn.masks[chosen])
        boxes.append(boxes_to_frame(drawn.boxes[chosen], Frame((SIDE, SIDE), SIDE)))
        owners.append(np.full(len(chosen), number))
    return Batch(
        torch.from_numpy(np.stack(images)).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.concatenate(boxes)),
        torch.from_numpy(np.concatenate(masks))[:, None].float(),
        torch.from_numpy(np.concatenate(owners)),
    )


def shape_loss(logits: Tensor, iou: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """Dice + cross-entropy (nineteen twentieths of its weight inside the box) + 0.1 x squared error of the IoU."""
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((1, 2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.square().sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)
    axis = torch.arange(logits.shape[-1])
    inside_x = (axis >= boxes[:, None, 0]) & (axis <= boxes[:, None, 2])
    inside_y = (axis >= boxes[:, None, 1]) & (axis <= boxes[:, None, 3])
    inside = (inside_y[:, None, :, None] & inside_x[:, None, None, :]).float()
    weight = 0.95 * inside / inside.sum((1, 2, 3), keepdim=True) + 0.05 / inside[0].numel()
    entropy = (F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * weight).sum((1, 2, 3))
    with torch.no_grad():
        guess = (logits > 0).float()
        both = (guess * masks).sum((1, 2, 3))
        truth = both / ((guess + masks).clamp(max=1).sum((1, 2, 3)) + 1e-6)
    return dice.mean() + entropy.mean() + 0.1 * F.mse_loss(iou[:, 0], truth)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak at ``recipe.iterations``."""
    if step < recipe.warmup:
        return recipe.peak_lr * (step + 1) / recipe.warmup
    done = min(1.0, (step - recipe.warmup) / max(1, recipe.iterations - recipe.warmup))
    return recipe.peak_lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


class DemoTraining:
    """One resumable run in ``out``: network, averaged network, optimiser, and the number of the next iteration."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.out, self.recipe, self.step, self.seconds = out, recipe, 0, 0.0
        torch.manual_seed(recipe.seed)
        self.model = LiteMedSAM(SIDE).to(memory_format=torch.channels_last)
        self.average = LiteMedSAM(SIDE).to(memory_format=torch.channels_last)
        self.average.load_state_dict(self.model.state_dict())
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.98))
        self.checkpoint = out / "checkpoint.pt"
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        _log.info("resumed at iteration %d of %d", self.step, self.recipe.iterations)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def batch(self, step: int) -> Batch:
        """The training batch of one iteration, a function of its number alone; clear contrasts come first."""
        hardness = min(1.0, step / (0.3 * self.recipe.iterations))
        first = step * self.recipe.slices
        slices = [draw_slice("train", first + i, hardness=hardness) for i in range(self.recipe.slices)]
        return make_batch(slices, self.recipe.boxes_per_slice, np.random.default_rng(step))

    def iterate(self, batch: Batch) -> float:
        """One optimiser step; the loss."""
        started = time.perf_counter()
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        logits, iou = self.model(batch.images, batch.boxes, batch.owners)
        loss = shape_loss(logits, iou, batch.masks, batch.boxes)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for ours, theirs in zip(_tensors(self.average), _tensors(self.model), strict=True):
                if ours.is_floating_point():
                    ours.lerp_(theirs, 1 - keep)
                else:
                    ours.copy_(theirs)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return float(loss.detach())

    def export(self, fresh: int = 200) -> dict[str, Any]:
        """Write the float16 file and its record; the overlaps are those of the file as it loads."""
        weights = self.out / "demo_weights.safetensors"
        save_flat(self.average, weights, dtype=torch.float16)
        model, _ = load_model(weights, image_size=SIDE)
        measured = measure(model, "fresh", fresh)
        record = {
            "what": "stand-in weights for demonstrations, trained on procedural shapes; not for any patient",
            "architecture": "LiteMedSAM",
            "sha256": digest_file(weights),
            "image_size": SIDE,
            "pixel_mm": PIXEL_MM,
            "margin_mm": [0.0, MARGIN_MM],
            "iterations_done": self.step,
            "training_hours": round(self.seconds / 3600, 2),
            "recipe": asdict(self.recipe),
            "dsc_on_fresh_shapes": measured,
            "dsc_on_fresh_shapes_of_clear_contrast": measure(model, "fresh", fresh, hardness=0.0),
        }
        partial = self.out / "demo_weights.json.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n")
        partial.replace(self.out / "demo_weights.json")
        return measured


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def measure(model: LiteMedSAM, subset: str, count: int, *, hardness: float = 1.0) -> dict[str, Any]:
    """Mean DSC per object of network, filled box and inscribed ellipse on ``count`` slices of ``subset``."""
    model.eval()
    forget_cached_biases(model)
    scores: dict[str, list[float]] = {"model": [], "box": [], "ellipse": []}
    for start in range(0, count, 8):
        batch = make_batch([draw_slice(subset, i, hardness=hardness) for i in range(start, min(start + 8, count))], 99)
        logits, _ = model(batch.images, batch.boxes, batch.owners)
        predicted = (logits > 0)[:, 0].numpy()
        for guess, truth, box in zip(predicted, batch.masks[:, 0].bool().numpy(), batch.boxes.numpy(), strict=True):
            filled, ellipse = _box_masks(box)
            scores["model"].append(_dsc(guess, truth))
            scores["box"].append(_dsc(filled, truth))
            scores["ellipse"].append(_dsc(ellipse, truth))
    means = {name: round(float(np.mean(values)), 4) for name, values in scores.items()}
    return {**means, "objects": len(scores["model"]), "slices": count}


def _box_masks(box: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    y, x = np.mgrid[:SIDE, :SIDE]
    dx = (x - (box[0] + box[2]) / 2) / ((box[2] - box[0] + 1) / 2)
    dy = (y - (box[1] + box[3]) / 2) / ((box[3] - box[1] + 1) / 2)
    return np.maximum(abs(dx), abs(dy)) <= 1, np.hypot(dx, dy) <= 1


def _dsc(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def train(
    out: Path, recipe: Recipe, *, minutes: float = math.inf, report_every: int = 200, fresh: int = 200
) -> dict[str, Any]:
    """Train until ``recipe.iterations``, or stop with a checkpoint after ``minutes``; export either way.

    The overlap on ``fresh`` slices that nothing was trained or chosen on is measured at the end and returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = DemoTraining(out, recipe)
    deadline = time.monotonic() + 60 * minutes
    losses: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Batch] = pool.submit(run.batch, run.step)
        while run.step < recipe.iterations and time.monotonic() < deadline:
            batch = waiting.result()
            waiting = pool.submit(run.batch, run.step + 1)
            losses.append(run.iterate(batch))
            if run.step % 20 == 0:
                pace = run.seconds / run.step
                _log.info("iteration %d loss %.4f %.2f s/iteration", run.step, np.mean(losses[-20:]), pace)
            if run.step % 100 == 0:
                run.save()
            if run.step % report_every == 0:
                _log.info("iteration %d held out %s", run.step, measure(run.average, "held-out", 48))
    run.save()
    measured = run.export(fresh)
    _log.info("exported at iteration %d: %s", run.step, measured)
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, the log and the result")
    parser.add_argument("--iterations", type=int, default=Recipe.iterations, help="end of the learning-rate decay")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop earlier, resumable")
    parser.add_argument("--peak-lr", type=float, default=Recipe.peak_lr)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.FileHandler(options.out / "train.log"), logging.StreamHandler()],
    )
    torch.set_num_threads(options.threads)
    recipe = Recipe(iterations=options.iterations, peak_lr=options.peak_lr)
    train(options.out, recipe, minutes=options.minutes)


if __name__ == "__main__":
    main()
