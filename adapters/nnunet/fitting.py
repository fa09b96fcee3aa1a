"""Training an nnU-Net arm: export, plan, preprocess, train, and keep what prediction needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.crossval_split import generate_crossval_split
from safetensors.torch import save_file

from gtvbench.adapters.base import Recorder
from gtvbench.adapters.nnunet.boxes import box_channels, groups
from gtvbench.adapters.nnunet.dataset import DATASET, Layout, write_splits
from gtvbench.adapters.nnunet.options import NnunetBoxOptions, NnunetOptions
from gtvbench.adapters.nnunet.planning import PLANS, plan, preprocess
from gtvbench.adapters.nnunet.trainer import BEST, FINAL, Hooks, read_checkpoint, train, trainer_of
from gtvbench.adapters.nnunet.transforms import FreshBoxes
from gtvbench.adapters.parallel import require_devices, together
from gtvbench.bench.core.cases import TrainingCase
from gtvbench.bench.core.digest import seed_from
from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.core.prompts import policy_from
from gtvbench.bench.files.store import write_atomically

MODEL_FILE = "model.json"


def network_files(folds: int) -> list[str]:
    """Names of the files of weights, one for each fold."""
    return ["network.safetensors"] if folds == 1 else [f"network.{fold}.safetensors" for fold in range(folds)]


def export(
    root: Path,
    layout: Layout,
    training: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    options: NnunetOptions,
) -> int:
    """Write the raw data set of training and validation cases; return the number of voxels of all channels."""
    folder = root / "raw" / DATASET
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "labelsTr").mkdir(parents=True)
    voxels = 0
    for case in (*training, *validation):
        boxes = None
        if isinstance(options, NnunetBoxOptions):
            channels = groups(layout.structures, options.boxes == "per-structure")
            boxes = box_channels(case.prompts, case.images.grid.shape, channels)
        layout.write_images(folder / "imagesTr", case.images, boxes)
        layout.write_label(folder / "labelsTr", case)
        z, y, x = case.images.grid.shape
        voxels += z * y * x * (len(layout.modalities) + layout.box_channels)
    layout.write_description(folder, len(training) + len(validation))
    # Without validation cases the pseudo-Dice is one of training cases; nnU-Net cannot do without any.
    held_out = [case.case for case in validation] or [case.case for case in training]
    folds = [([case.case for case in training], held_out)]
    if options.folds > 1:
        folds = divided({case.case: case.images.meta["patient"] for case in (*training, *validation)}, options.folds)
    write_splits(folder / "splits_final.json", *folds)
    return voxels


def divided(patients: Mapping[str, str], folds: int) -> list[tuple[list[str], list[str]]]:
    """Training and validation cases of each fold, as nnU-Net divides them, but by patient. `patients` is by case."""
    return [
        ([c for c in patients if patients[c] in part["train"]], [c for c in patients if patients[c] in part["val"]])
        for part in generate_crossval_split(sorted(set(patients.values())), n_splits=folds)
    ]


def fit(
    root: Path,
    layout: Layout,
    training: Sequence[TrainingCase],
    validation: Sequence[TrainingCase],
    options: NnunetOptions,
    recorder: Recorder,
    *,
    seed: int,
    device: str,
    cores: int,
    processes: int = 1,
) -> dict[str, Any]:
    """Train in `root`/nnunet and leave `network_files` and `model.json` in `root`; return facts for the record.

    The environment is set (planning.set_environment). Called again after a kill, every phase goes on where it was. Each
    network is trained by `processes` ranks (parallel.py), as nnU-Net does it.
    """
    require_devices(processes, device)
    work = root / "nnunet"
    # Outside of `work`, and kept: a kill while that is removed, or after it, repeats nothing.
    kept = [root / f"fold-{fold}.json" for fold in range(options.folds)]
    if not all(path.exists() for path in kept):
        voxels = export(work, layout, training, validation, options)
        batch = plan(work, options, cores, voxels)["configurations"][options.configuration]["batch_size"]
        if batch < processes:
            raise BenchError(
                f"nnU-Net planned a batch of {batch} patches, which {processes} GPUs cannot divide among themselves",
                remedy="lower 'engine: gpus-per-fit', or set 'batch-size'",
            )
        preprocess(work, options.configuration, cores, voxels)
    for fold, path in enumerate(kept):
        if not path.exists():
            own = seed if fold == 0 else seed_from(seed, "fold", fold)
            found = together(processes, device, _fold, root, layout, options, fold, own, recorder=recorder)
            write_atomically(path, json.dumps(found))
    facts: list[dict[str, Any]] = [json.loads(path.read_text()) for path in kept]
    if work.exists():
        shutil.rmtree(work)
    best = [of_fold.pop("best_epoch") for of_fold in facts]
    return facts[0] | ({"best_epoch": best[0]} if options.folds == 1 else {"best_epochs": best})


def _fold(
    root: Path, layout: Layout, options: NnunetOptions, fold: int, seed: int, recorder: Recorder, device: str
) -> dict[str, Any]:
    """One rank's part of training a fold, or of going on with it; the first keeps what prediction needs, and returns
    facts for the record."""
    trainer = _trainer(root / "nnunet", layout, options, recorder, seed, torch.device(device), fold)
    folder = Path(trainer.output_folder)
    recorder.ready()
    try:
        train(trainer, folder)
    except torch.OutOfMemoryError as error:
        raise BenchError(
            f"the GPU ran out of memory while training with patches of {trainer.configuration_manager.patch_size} and "
            f"a batch of {trainer.configuration_manager.batch_size}",
            remedy="lower 'gpu-memory-gb' (the planner then chooses a smaller patch) or 'batch-size'",
        ) from error
    if trainer.local_rank:
        return {}
    return _keep(trainer, root / network_files(options.folds)[fold], folder, options)


def _trainer(
    work: Path, layout: Layout, options: NnunetOptions, recorder: Recorder, seed: int, device: torch.device, fold: int
) -> Any:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        base = recursive_find_trainer_class_by_name(options.trainer)
    except (RuntimeError, AttributeError, ImportError) as error:
        raise _no_trainer(options.trainer) from error
    if base is None:
        raise _no_trainer(options.trainer)
    folder = work / "preprocessed" / DATASET
    plans = json.loads((folder / f"{PLANS}.json").read_text())
    plans["continue_training"] = False  # of the logger; our own resume points are found by their names
    description = json.loads((folder / "dataset.json").read_text())
    trainer = trainer_of(base)(plans, options.configuration, fold, description, device)
    if trainer.is_ddp and device.type == "cpu":  # nnU-Net takes it for granted that ranks have GPUs
        trainer.device, trainer.grad_scaler = device, None
    trainer.num_epochs = options.epochs
    trainer.num_iterations_per_epoch = options.iterations
    trainer.num_val_iterations_per_epoch = options.validation_iterations
    trainer.initial_lr = options.learning_rate
    first = len(layout.modalities) if layout.box_channels else None
    names = tuple(structure.name for structure in layout.structures)
    fresh = _fresh(trainer, layout, options)

    def record(epoch: int, train_loss: float, validation_loss: float, **extra: float) -> None:
        of_fold = {"fold": fold} if options.folds > 1 else {}
        recorder.epoch(fold * options.epochs + epoch, train_loss, validation_loss, **of_fold, **extra)

    trainer.hooks = Hooks(seed, record, options.resume_every(), names, first, fresh)
    return trainer


def _fresh(trainer: Any, layout: Layout, options: NnunetOptions) -> FreshBoxes | None:
    if not isinstance(options, NnunetBoxOptions) or not options.fresh_boxes:
        return None
    order = trainer.plans_manager.transpose_forward
    spacing = list(trainer.configuration_manager.spacing)
    if len(spacing) == 2:  # a 2D configuration keeps the first axis as it is; slices then follow each other along it
        spacing = [trainer.plans_manager.original_median_spacing_after_transp[0], *spacing]
    named = groups(layout.structures, options.boxes == "per-structure")
    channels = [[layout.values[value] for value in group] for group in named]
    return FreshBoxes(len(layout.modalities), channels, spacing, order.index(0), policy_from(options.margins))


def _keep(trainer: Any, file: Path, folder: Path, options: NnunetOptions) -> dict[str, Any]:
    """Write what prediction needs, free of pickles: the weights into `file`, the rest beside it."""
    name = BEST if options.checkpoint == "best" and (folder / BEST).exists() else FINAL
    checkpoint = read_checkpoint(folder / name)
    weights = {key: value.contiguous() for key, value in checkpoint["network_weights"].items()}
    part = file.with_name(f"{file.name}.part")
    save_file({key: value.clone() for key, value in weights.items()}, part)
    part.replace(file)
    plans = dict(trainer.plans_manager.plans)
    model = {
        "plans": plans,
        "dataset": trainer.dataset_json,
        "configuration": options.configuration,
        "trainer": options.trainer,
        "mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
    }
    file.with_name(MODEL_FILE).write_text(json.dumps(model, indent=1, default=_plain) + "\n")
    chosen = trainer.configuration_manager
    return {
        "best_epoch": int(checkpoint["current_epoch"]) - 1,
        "patch_size": [int(n) for n in chosen.patch_size],
        "batch_size": int(chosen.batch_size),
        "spacing_mm": [float(s) for s in chosen.spacing],
        "network": chosen.network_arch_class_name,
        "parameters": int(sum(value.numel() for value in weights.values())),
    }


def _plain(value: Any) -> Any:
    return value.tolist()


def _no_trainer(name: str) -> StudyError:
    return StudyError(f"nnU-Net has no trainer {name!r}", remedy="use nnUNetTrainer or one of its variants by name")
