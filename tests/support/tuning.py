"""What tests of fine-tuning share: a made-up case, and a recorder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import draw_prompts, policy_from
from gtvbench.bench.core.structures import Structure

STRUCTURES = (Structure("GTV-T", 1), Structure("GTV-N", 2))


def make_case(folder: Path, name: str, seed: int) -> TrainingCase:
    """A prepared case of 3 slices of 32 x 32 pixels with a T in each and two N in the middle one."""
    rng = np.random.default_rng(seed)
    label = np.zeros((3, 32, 32), np.uint8)
    label[:, 8 + seed : 18 + seed, 6:17] = 1
    label[1, 20:25, 22:29] = 2
    label[1, 2:3, 30:31] = 2
    ct = np.clip(60 + 90 * (label > 0) + rng.normal(0, 10, label.shape), 0, 255).astype(np.uint8)
    place = folder / name
    place.mkdir(parents=True)
    np.save(place / "CT.uint8.npy", ct)
    np.save(place / "label.npy", label)
    grid = Grid(label.shape, (4.0, 3.0, 3.0))
    (place / "case.json").write_text(json.dumps({"grid": grid.as_dict(), "modalities": ["CT"]}))
    prompts = draw_prompts(name, label, grid.spacing, STRUCTURES, policy_from("random-margin(0, 20)"), 7)
    return TrainingCase(Images(name, place), place / "label.npy", prompts)


class Losses:
    """A recorder that keeps nothing but losses."""

    def __init__(self) -> None:
        self.epochs: dict[int, tuple[float, float]] = {}

    def ready(self) -> None:
        pass

    def saved(self) -> None:
        pass

    def epoch(self, epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        self.epochs[epoch] = (train_loss, validation_loss)
