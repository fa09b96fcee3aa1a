"""A data set in nnU-Net's raw layout, made of prepared cases: images are links to the run folder's own files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtvbench.adapters.nnunet.boxes import Channels
from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.structures import Structure

#: nnU-Net's name of a channel that it does not normalise; normalisation goes by name.
UNTOUCHED = "noNorm"
ENDING = ".nii"
DATASET = "Dataset001_gtvbench"


@dataclass(frozen=True)
class Layout:
    """What the channels and labels of a data set are. nnU-Net wants label values without a gap, from 1."""

    modalities: tuple[str, ...]
    structures: tuple[Structure, ...]
    box_channels: int = 0

    @property
    def values(self) -> dict[int, int]:
        """Label value of the study -> label value of nnU-Net."""
        return {s.value: number for number, s in enumerate(self.structures, start=1)}

    def description(self, training: int) -> dict[str, object]:
        """Content of dataset.json for so many training cases."""
        names = [*self.modalities, *[UNTOUCHED] * self.box_channels]
        return {
            "channel_names": {str(index): name for index, name in enumerate(names)},
            "labels": {"background": 0} | {s.name: n for n, s in enumerate(self.structures, start=1)},
            "numTraining": training,
            "file_ending": ENDING,
        }

    def write_description(self, folder: Path, training: int) -> None:
        """Write dataset.json."""
        (folder / "dataset.json").write_text(json.dumps(self.description(training), indent=1) + "\n")

    def write_images(self, folder: Path, images: Images, boxes: Channels | None = None) -> None:
        """Write the channels of a case: links to its volumes, and the box channels as files of their own."""
        from gtvbench.bench.files.nifti import write_volume  # SimpleITK is loaded where it is used

        for index, modality in enumerate(self.modalities):
            link(images.raw_file(modality), folder / f"{images.case}_{index:04d}{ENDING}")
        for index, channel in enumerate(() if boxes is None else boxes, start=len(self.modalities)):
            write_volume(channel, images.grid, folder / f"{images.case}_{index:04d}{ENDING}")

    def write_label(self, folder: Path, case: TrainingCase) -> None:
        """Write the reference of a case with nnU-Net's label values."""
        from gtvbench.bench.files.nifti import write_volume

        write_volume(
            translated(np.asarray(case.label()), self.values), case.images.grid, folder / f"{case.case}{ENDING}"
        )


def translated(label: Channels, values: dict[int, int]) -> Channels:
    """A label map with other values; values that are not named become background."""
    table = np.zeros(256, np.uint8)
    for old, new in values.items():
        table[old] = new
    return table[label]


def write_splits(path: Path, train: Sequence[str], validation: Sequence[str], folds: int = 1) -> None:
    """Write splits_final.json: the one split of the study, or nnU-Net's division of all its cases into folds."""
    splits = [{"train": sorted(train), "val": sorted(validation)}]
    if folds > 1:
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        splits = generate_crossval_split(sorted({*train, *validation}), n_splits=folds)
    path.write_text(json.dumps(splits, indent=1) + "\n")


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
