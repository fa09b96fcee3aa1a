"""Predictions of a run as RTSTRUCT or SEG that refer to the DICOM series they were made from.

They carry the patient's identity, as every planning system needs it, and so belong into the private part of a run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import DataError, StoreError, StudyError
from gtvbench.bench.core.geometry import Grid, Volume, canonical
from gtvbench.bench.export.dicom_objects import Masks, Subject, rtstruct, seg
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.store import Store, publish_file
from gtvbench.bench.privacy.private import FOLDER, read_private
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.datasets.assembly.resample import labels_to_grid
from gtvbench.datasets.dicom.images.series import read_series

#: What the reference label map is called beside the arms.
REFERENCE = "reference"
_WRITERS = {"rtstruct": rtstruct, "seg": seg}


@dataclass
class Exported:
    """Files written, and lines on what could not be."""

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def export_dicom(
    run: Path,
    kind: str,
    out: Path | None = None,
    arms: Sequence[str] = (),
    cases: Sequence[str] = (),
    reference: bool = False,
    study_file: Path | None = None,
    force: bool = False,
) -> Exported:
    """Write <out>/<case>/<arm>.dcm for every prediction of a run (`kind`: rtstruct or seg), and the reference if asked.

    `out` is RUN/private/dicom/<kind> where None. Raises StudyError where the run's source is not DICOM, for unknown
    arms or cases and files that are there already; StoreError where the run or its input cannot be found.
    """
    study, base = read_private(run, study_file)
    cohort = open_cohort(study, base)
    if not hasattr(cohort.source, "reference_files"):
        raise StudyError(
            f"the patients of this run come from the source {study.dataset['source']!r}: there is no DICOM series that "
            f"an {kind.upper()} could refer to",
            remedy="predictions lie as NIfTI in arms/<arm>/predictions; 'bench export nnunet' writes nnU-Net's layout",
        )
    wanted = _arms(run, arms)
    names = _known("case", cases, cohort.cases("test"))
    target = out if out is not None else run / FOLDER / "dicom" / kind
    sources = [*wanted, *([REFERENCE] if reference else [])]
    entries = {entry.name: entry for entry in cohort.used}
    plan = {(case, arm): target / case / f"{arm}.dcm" for case in names for arm in sources}
    there = [path for path in plan.values() if path.exists()]
    if there and not force:
        raise StudyError(f"{len(there)} of the files are there already", file=there[0], remedy="--force, or --out")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    exported = Exported()
    for case in names:
        try:
            series = read_series(cohort.source.reference_files(entries[case]), case)
        except DataError as error:
            exported.problems.append(f"{case}: {error.message}")
            continue
        for arm in sources:
            try:
                label = _label(run, arm, case, series.volume.grid)
            except DataError as error:
                exported.problems.append(f"{case}, {arm}: {error.message}")
                continue
            masks = {s.name: label == s.value for s in cohort.structures}
            subject = Subject(study.study, case, arm, tuple(h.dataset for h in series.headers), series.volume.grid)
            if _written(_WRITERS[kind], subject, masks, plan[case, arm]):
                exported.files.append(plan[case, arm])
            else:
                exported.problems.append(f"{case}, {arm}: nothing is segmented, and a SEG cannot be empty")
    return exported


def _written(write: Callable[..., Any], subject: Subject, masks: Masks, path: Path) -> bool:
    """Whether there was anything to write; the file is its owner's alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values in the source's headers that break a VR's rules
        made = write(subject, masks)
        if made is None:
            return False
        publish_file(path, lambda part: made.save_as(part, enforce_file_format=True))
    path.chmod(0o600)
    return True


def _label(run: Path, arm: str, case: str, grid: Grid) -> npt.NDArray[np.uint8]:
    """A prediction, or the reference, on the grid of the DICOM series."""
    if arm == REFERENCE:
        volume = _reference(run, case)
    else:
        path = Store(run).prediction(arm, case)
        if not path.is_file():
            raise DataError("there is no prediction (it failed, or the run is not finished)", case=case, file=path)
        volume = read_volume(path, case)
    if not volume.grid.differences(grid):
        return np.ascontiguousarray(volume.array, np.uint8)
    turn = canonical(grid)  # a re-cropped case: its voxels lie on the series' own
    values = Volume(np.ascontiguousarray(volume.array, np.uint8), volume.grid)
    moved, _ = labels_to_grid(values, turn.apply_to_grid(grid), case=case, file=run)
    return np.ascontiguousarray(turn.undo(moved))


def _reference(run: Path, case: str) -> Volume:
    store = Store(run)
    try:
        meta: dict[str, Any] = json.loads((store.case_folder(case) / "case.json").read_text())
        array = np.load(store.reference(case))
    except (OSError, ValueError) as error:
        raise DataError("the prepared case is not in the run folder", case=case, file=run) from error
    return Volume(array, Grid.from_dict(meta["grid"]))


def _arms(run: Path, chosen: Sequence[str]) -> list[str]:
    try:
        records = json.loads((run / "arms.json").read_text())
        there = [str(record["arm"]) for record in records if record["status"] != "skipped"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            "this is no finished run", file=run, remedy="give the folder that 'bench run' wrote"
        ) from error
    return _known("arm", chosen, there)


def _known(what: str, chosen: Sequence[str], there: Sequence[str]) -> list[str]:
    unknown = [name for name in chosen if name not in there]
    if unknown:
        raise StudyError(f"the run has no {what} {', '.join(unknown)}", remedy=f"it has {', '.join(there)}")
    return [name for name in there if not chosen or name in chosen]
