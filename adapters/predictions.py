"""Method `predictions`: masks made elsewhere take part in a comparison as an arm of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gtvbench.adapters.base import LabelMap, Needs, Options, VolumeMethod
from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import check_labels


class PredictionsOptions(Options):
    """Method `predictions`: masks made elsewhere, on the grid of the reference file."""

    folder: Path
    """Folder of the masks, relative to the study file."""
    pattern: str = "{case}.nii.gz"
    """File name of a case's mask."""
    labels: dict[int, str] = Field(default_factory=dict)
    """What the values in the files mean: `{1: GTV-T}`. Empty: the values are those of the study."""


class Predictions(VolumeMethod):
    """Read one mask file a case; it must lie on the grid of the case's reference file."""

    needs: ClassVar[Needs] = Needs(fusions=(), settings=("folder",))
    Options: ClassVar[type[Options]] = PredictionsOptions

    @classmethod
    def input_files(cls, options: Any, base: Path, case: str) -> list[Path]:
        """The case's mask file."""
        return [base / options.folder / options.pattern.format(case=case)]

    def segment(self, images: Images, prompts: Prompts) -> LabelMap:
        """Read the mask and bring it to the orientation of the prepared case; raises DataError where it cannot."""
        from gtvbench.bench.files.nifti import read_volume  # SimpleITK is loaded where it is used

        options = self.context.options
        (path,) = self.input_files(options, self.context.base, images.case)
        mask = read_volume(path, images.case)
        differences = mask.grid.differences(images.original)
        if differences:
            raise DataError(
                f"the mask does not lie on the reference grid: {'; '.join(differences)}",
                case=images.case,
                file=path,
                remedy="resample the mask onto the reference with nearest-neighbour interpolation",
            )
        array = mask.array
        values = {s.name: s.value for s in self.context.structures}
        if options.labels:
            mapped = np.zeros(array.shape, np.uint8)
            for value, name in options.labels.items():
                if name not in values:
                    raise DataError(f"option 'labels' names structure {name!r}", remedy=f"use {', '.join(values)}")
                mapped[array == value] = values[name]
            array = mapped
        check_labels(array, self.context.structures, images.case, str(path))
        return images.from_original(array.astype(np.uint8))
