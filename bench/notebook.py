"""A finished run as tables and arrays, for notebooks (docs/notebook.md).

    from gtvbench.bench.notebook import open_run

    run = open_run("runs/my-study")
    run.prediction("nnunet.multimodal", "P-01")

Arrays are (z, y, x). They lie on the prepared grid (the reference's, in canonical orientation), or with
`grid="original"` on the grid of the reference's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.store import Store, refuse_in_use
from gtvbench.reports.analysis.contrasts import contrasts
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.run.load import FinishedRun, read_run

Where = Literal["prepared", "original"]

_AGAIN = "remove the file, where it is there, and start the same `bench run` again"


def open_run(folder: str | Path) -> OpenRun:
    """Open a run folder; raises StoreError where it is none, is damaged, or a run is still working on it."""
    folder = Path(folder).expanduser()
    refuse_in_use(folder)
    return OpenRun(folder, read_run(folder))


@dataclass(frozen=True)
class OpenRun:
    """Tables as the report reads them, and the volumes of the run folder, read when they are asked for."""

    folder: Path
    tables: FinishedRun

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The long table: a row for each arm, case, structure, scope and metric (docs/scoring.md)."""
        return self.tables.scores.copy()

    @cached_property
    def scores_by_case(self) -> pd.DataFrame:
        """A row for each arm, case, structure and scope, with a column for each metric."""
        return wide_scores(self.tables.scores)

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """Differences of arms, intervals and tests, planned ones first (columns: docs/stats-json.md, `contrasts`)."""
        found = contrasts(self.tables, self.scores_by_case)
        return found.sort_values("planned", ascending=False, kind="stable", ignore_index=True)

    @cached_property
    def timing(self) -> pd.DataFrame:
        """Seconds of every stage: arm, case, slice (-1: the whole volume), stage, boxes, seconds."""
        return _stacked(self.tables.timing)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Losses of every epoch: arm, epoch, train_loss, validation_loss, seconds, and what the method adds."""
        return _stacked(self.tables.epochs)

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of arms.json."""
        return self.tables.arm_names

    @property
    def cases(self) -> list[str]:
        """Names of the prepared cases of all subsets; those with scores are the test set."""
        return sorted(path.parent.name for path in self.folder.glob("cases/*/case.json"))

    def images(self, case: str) -> Images:
        """The prepared case: its `modalities`, its `grid` (shape, spacing in mm) and the `original` grid."""
        images = Images(case, self._store.case_folder(case))
        self._require(images.folder / "case.json", case, "prepared images", "name one of `run.cases`")
        return images

    def image(self, case: str, modality: str, grid: Where = "prepared") -> npt.NDArray[np.float32]:
        """Voxels in HU, SUV or scanner units."""
        images = self.images(case)
        remedy = f"name one of {', '.join(images.modalities)}"
        self._require(images.raw_file(modality), case, f"{modality} image", remedy)
        volume = np.array(images.raw(modality))
        return images.to_original(volume) if grid == "original" else volume

    def reference(self, case: str, grid: Where = "prepared") -> npt.NDArray[np.uint8]:
        """The reference label map; its values are those of `structures` in the study file."""
        images, path = self.images(case), self._store.reference(case)
        self._require(path, case, "reference", _AGAIN)
        try:
            label: npt.NDArray[np.uint8] = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError("the reference cannot be read", case=case, file=path, remedy=_AGAIN) from error
        return images.to_original(label) if grid == "original" else label

    def prediction(self, arm: str, case: str, grid: Where = "prepared") -> npt.NDArray[np.uint8]:
        """The label map that an arm predicted for a test case."""
        images, path = self.images(case), self._store.prediction(arm, case)
        remedy = f"test cases alone are predicted, failures.json has those that failed; arms: {', '.join(self.arms)}"
        self._require(path, case, f"prediction of {arm}", remedy)
        volume = read_volume(path, case).array
        return np.asarray(volume if grid == "original" else images.from_original(volume), np.uint8)

    @property
    def _store(self) -> Store:
        return Store(self.folder)

    def _require(self, path: Path, case: str, what: str, remedy: str) -> None:
        if not path.is_file():
            raise StoreError(f"the run folder has no {what} of this case", case=case, file=path, remedy=remedy)


def _stacked(tables: Any) -> pd.DataFrame:
    """Tables by arm as one, with the arm's name in front."""
    named = [table.assign(arm=arm)[["arm", *table.columns]] for arm, table in tables.items()]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame(columns=["arm"])
