"""What a run prepared, as other programs read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gtvbench.bench.core.cases import Images, TrainingCase
from gtvbench.bench.core.errors import StoreError, StudyError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.split import SUBSETS
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.store import Store


def export_nnunet(run: Path, out: Path, number: int = 1, boxes: str | None = None) -> Path:
    """Write a run's prepared cases as a data set in nnU-Net's raw layout below `out`; return its folder.

    Training and validation cases become imagesTr and labelsTr, test cases imagesTs and labelsTs, the split
    splits_final.json. `boxes` adds the prompts as channels ("one-channel" or "per-structure"). Raises StoreError where
    `run` is no run folder with prepared cases, StudyError where the data set exists or the number is out of range.
    """
    from gtvbench.adapters.nnunet.boxes import box_channels, groups
    from gtvbench.adapters.nnunet.dataset import Layout, write_splits

    if not 1 <= number <= 999:
        raise StudyError(f"nnU-Net's data sets are numbered from 1 to 999, not {number}")
    study, split, cases = _prepared(run)
    structures = structures_from(study["structures"])
    first = Images(cases[0]["case"], run / "cases" / cases[0]["case"])
    channels = groups(structures, boxes == "per-structure") if boxes else ()
    layout = Layout(tuple(m for m in MODALITIES if m in first.modalities), structures, len(channels))
    folder = out / f"Dataset{number:03d}_{_name(study['study'])}"
    if folder.exists():
        raise StudyError("the data set exists", file=folder, remedy="remove it, or choose another number")
    patient_of, folds = {}, split.get("folds") or [split]
    tested = [] if split.get("folds") else split["test"]  # of a cross-validation every case trains in some fold
    for record in cases:
        name = record["case"]
        rows = json.loads((run / "prompts" / f"{name}.json").read_text())
        case = TrainingCase(
            Images(name, run / "cases" / name), Store(run).reference(name), Prompts.from_rows(name, rows)
        )
        drawn = box_channels(case.prompts, case.images.grid.shape, channels) if channels else None
        part = "Ts" if record["patient"] in tested else "Tr"
        layout.write_images(folder / f"images{part}", case.images, drawn)
        layout.write_label(folder / f"labels{part}", case)
        patient_of[name] = record["patient"]
    layout.write_description(folder, sum(patient not in tested for patient in patient_of.values()))
    write_splits(
        folder / "splits_final.json",
        *(
            (
                [n for n in patient_of if patient_of[n] in fold["train"]],
                [n for n in patient_of if patient_of[n] in fold["validation"]],
            )
            for fold in folds
        ),
    )
    return folder


def _prepared(run: Path) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    import yaml

    try:
        study = yaml.safe_load((run / "study.yaml").read_text())
        split = json.loads((run / "split.json").read_text())
        patients = {patient for subset in SUBSETS for patient in split[subset]}
        found = [json.loads(path.read_text()) for path in sorted((run / "cases").glob("*/case.json"))]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            "this is no run folder with prepared cases", file=run, remedy="give the folder that 'bench run' wrote"
        ) from error
    cases = [record for record in found if record["patient"] in patients]
    if not cases:
        raise StoreError("the run folder has no prepared cases", file=run, remedy="start the run first: 'bench run'")
    return dict(study), split, cases


def _name(study: str) -> str:
    """A study's name with letters and digits only, as nnU-Net's folders have it."""
    kept = "".join(c if c.isalnum() else " " for c in study).title().replace(" ", "")
    return kept or "Study"
