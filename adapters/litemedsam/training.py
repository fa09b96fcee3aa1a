"""Fine-tuning LiteMedSAM by the study's protocol (arXiv 2402.17454), resumable at any moment.

Up to 20 epochs, batches of 8 pairs, AdamW at 3e-4, ReduceLROnPlateau (factor 0.9, patience 5) on the validation Dice
loss, loss = Dice + cross-entropy + IoU, the epoch of the lowest validation Dice loss is kept. Validation runs in eval
mode with the stored prompts, so that it neither moves BatchNorm statistics nor depends on chance.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gtvbench.adapters.litemedsam.checkpoints import save_flat
from gtvbench.adapters.litemedsam.inference import computes_bfloat16
from gtvbench.adapters.litemedsam.model import LiteMedSAM, forget_cached_biases
from gtvbench.adapters.litemedsam.norm import use_global_batch_norm
from gtvbench.adapters.litemedsam.options import BEST_FILE, Protocol
from gtvbench.adapters.litemedsam.samples import Batch, Samples, count_pairs, share
from gtvbench.adapters.parallel import rank_and_ranks, sum_over_ranks
from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.core.prompts import policy_from
from gtvbench.bench.core.timing import Recorder

_log = logging.getLogger(__name__)

_CHECKPOINT_FILE = "checkpoint.pt"


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice loss per instance (N,): sigmoid, squared denominator, as LiteMedSAM was trained (MONAI's smoothing 1e-5)."""
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((1, 2, 3))
    total = probability.square().sum((1, 2, 3)) + masks.sum((1, 2, 3))
    return 1 - (2 * overlap + 1e-5) / (total + 1e-5)


def training_loss(logits: Tensor, iou: Tensor, masks: Tensor) -> Tensor:
    """Dice + cross-entropy + squared error of the predicted IoU against that of the mask at 0.5, equal weights."""
    with torch.no_grad():
        guess = (logits > 0).float()
        both = (guess * masks).sum((1, 2, 3))
        either = guess.sum((1, 2, 3)) + masks.sum((1, 2, 3)) - both
        truth = both / either.clamp(min=1.0)  # an empty union is no NaN
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    return dice_loss(logits, masks).mean() + entropy + F.mse_loss(iou[:, 0], truth)


def half_precision(device: torch.device) -> torch.dtype | None:
    """What mixed precision computes in: float16 on CUDA, bfloat16 on a CPU with units for it; None: no gain."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and computes_bfloat16() else None


class FineTuning:
    """One fine-tuning in ``folder``, which holds its checkpoint and the best weights so far.

    Every draw comes from (seed, epoch, case, slice, instance), and the checkpoint holds network, optimiser, scheduler,
    scaler, torch's generators and the place within the epoch: a killed run that is started again ends with the same
    weights, on a CPU bit for bit.

    In several ranks (parallel.py) each takes its share of every batch, and losses, gradients and BatchNorm's statistics
    are those of the whole batch: all ranks hold the same weights at any time, those of one process but for rounding.
    """

    def __init__(
        self,
        model: LiteMedSAM,
        training: Samples,
        validation: Samples,
        protocol: Protocol,
        *,
        folder: Path,
        seed: int,
        device: torch.device,
    ) -> None:
        self.training, self.validation, self.protocol = training, validation, protocol
        self.folder, self.seed, self.device = folder, seed, device
        if not training.slices():
            raise StudyError("fine-tuning has no training prompts", remedy="name more training cases in the split")
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.rank, self.ranks = rank_and_ranks()
        self.norms = use_global_batch_norm(self.model) if self.ranks > 1 else []
        trained = self.model.mask_decoder if protocol.train == "decoder" else self.model
        self.model.requires_grad_(False)
        trained.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(
            trained.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=protocol.plateau_factor, patience=protocol.plateau_patience
        )
        self.half = half_precision(device) if protocol.amp else None
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.half == torch.float16)
        self.margins = policy_from(protocol.margins)
        self.epoch, self.step, self.loss_sum, self.pairs = 0, 0, 0.0, 0
        self.best_loss, self.best_epoch = math.inf, 0
        self.saved_at = time.monotonic()
        self.identity = json.dumps([asdict(protocol), seed, training.fusion, training.size, training.normalisation])
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def finished(self) -> bool:
        """Whether every epoch was trained."""
        return self.epoch >= self.protocol.epochs

    def run(self, recorder: Recorder) -> dict[str, Any]:
        """Train to the end, leaving the best epoch's weights in `BEST_FILE`; facts for the record.

        Args:
            recorder: told about every epoch before its checkpoint is saved (a kill repeats an epoch and loses none),
                and about every checkpoint within an epoch.

        Raises:
            BenchError: the loss is no longer finite.
        """
        while not self.finished:
            self._train_epoch(recorder)
            train, validation = self.loss_sum / self.pairs, self._validate()
            watched = train if math.isnan(validation) else validation
            self.scheduler.step(watched)
            if watched < self.best_loss:
                self.best_loss, self.best_epoch = watched, self.epoch
                if self.rank == 0:
                    save_flat(self.model, self.folder / BEST_FILE)
            recorder.epoch(self.epoch, train, validation)
            self.epoch, self.step, self.loss_sum, self.pairs = self.epoch + 1, 0, 0.0, 0
            self._save()
        return {"best_epoch": self.best_epoch, "best_loss": self.best_loss, "epochs": self.epoch}

    def _train_epoch(self, recorder: Recorder) -> None:
        self.model.train()
        for pairs, batch in self._batches():
            loss = self._iterate(batch.to(self.device))
            if not math.isfinite(loss):
                raise BenchError(
                    f"fine-tuning diverged in epoch {self.epoch}: the loss is {loss}",
                    file=self.folder,
                    remedy="use a smaller learning_rate, or amp: false",
                )
            self.loss_sum += loss * pairs
            self.pairs += pairs
            self.step += 1
            if time.monotonic() - self.saved_at >= self.protocol.checkpoint_seconds:
                self._save()
                recorder.saved()

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        """The rest of this epoch's batches: pairs in all ranks, and this one's share, prepared ahead of its step."""
        names = (self.seed, self.epoch)
        plan = self.training.plan(*names)[self.step :]

        def load(number: int) -> Batch:
            slices = plan[number]
            own = share(slices, self.rank, self.ranks)
            # An empty share takes any slice, which counts for nothing: every BatchNorm waits for every rank.
            batch = self.training.redrawn(own or slices[:1], self.margins, flips=self.protocol.flips, names=names)
            return replace(batch, weight=count_pairs(own) / count_pairs(slices))

        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(load, number) for number in range(min(2, len(plan)))]
            for number in range(len(plan)):
                batch = waiting.pop(0).result()
                if number + 2 < len(plan):
                    waiting.append(pool.submit(load, number + 2))
                yield count_pairs(plan[number]), batch

    def _iterate(self, batch: Batch) -> float:
        for norm in self.norms:
            norm.counted = batch.weight > 0
        with self._autocast():
            logits, iou = self._forward(batch)
        loss = training_loss(logits.float(), iou.float(), batch.masks) * batch.weight
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if self.ranks > 1:  # before the scaler looks for infinite gradients: every rank must find the same
            sum_over_ranks([loss, *(p.grad for p in self.model.parameters() if p.grad is not None)])
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return float(loss)

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean Dice loss over the validation instances, of which each rank takes its part; NaN where there are none."""
        self.model.eval()
        forget_cached_biases(self.model)
        total, count = 0.0, 0
        for slices in self.validation.plan()[self.rank :: self.ranks]:
            batch = self.validation.stored(slices).to(self.device)
            with self._autocast():
                logits, _ = self._forward(batch)
            total += float(dice_loss(logits.float(), batch.masks).sum())
            count += len(batch.boxes)
        if self.ranks > 1:
            sums = torch.tensor([total, count], dtype=torch.float64, device=self.device)
            sum_over_ranks([sums])
            total, count = float(sums[0]), int(sums[1])
        return total / count if count else math.nan

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.protocol.train == "decoder":
            return self.model.decode(batch.images[batch.owners], batch.boxes)
        logits, iou = self.model(batch.images, batch.boxes, batch.owners)
        return logits, iou

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.half, enabled=self.half is not None)

    def _save(self) -> None:
        if self.rank:
            return
        state: dict[str, Any] = {
            "identity": self.identity,
            "place": [self.epoch, self.step, self.loss_sum, self.pairs],
            "best": [self.best_loss, self.best_epoch],
        }
        if not self.finished:  # a finished fit needs no 120 MB of optimiser
            state |= {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "generator": torch.get_rng_state(),
                "cuda_generators": [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [],
            }
        partial = self.folder / (_CHECKPOINT_FILE + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / _CHECKPOINT_FILE)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        path = self.folder / _CHECKPOINT_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            _log.warning("%s is of another protocol; fine-tuning starts afresh", path)
            return
        self.epoch, self.step, self.loss_sum, self.pairs = state["place"]
        self.best_loss, self.best_epoch = state["best"]
        if "model" not in state:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])
        if state["cuda_generators"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generators"][0], self.device)
        _log.info("fine-tuning resumed in epoch %d after %d batches", self.epoch, self.step)
