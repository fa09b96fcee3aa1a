"""Tiny trees in the published layouts of public data sets: synthetic volumes, names as the data sets have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import write_volume

SIDE = 24
GRID = Grid((SIDE, SIDE, SIDE), (3.0, 2.0, 2.0), (-20.0, 5.0, 100.0))


def volume(seed: int, modality: str = "CT") -> npt.NDArray[np.float32]:
    """An image (z, y, x) with values of its modality; no two seeds alike."""
    noise = np.random.default_rng(seed).standard_normal((SIDE, SIDE, SIDE))
    mean, spread = {"CT": (0, 60), "PET": (2, 0.5), "T1w": (300, 40), "T2w": (500, 60)}[modality]
    values = np.round(mean + spread * noise, 2) if modality == "PET" else np.round(mean + spread * noise)
    values[:2] = -1000 if modality == "CT" else 0
    return np.maximum(values, 0).astype(np.float32) if modality != "CT" else values.astype(np.float32)


def label(seed: int, values: Sequence[int] = (1, 2)) -> npt.NDArray[np.uint8]:
    """A box for each value, at a place that depends on the seed."""
    array = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    rng = np.random.default_rng(1000 + seed)
    for number, value in enumerate(values):
        z, y = (int(v) for v in rng.integers(3, 14, 2))
        x = 1 + (number * 7) % 18
        array[z : z + 6, y : y + 6, x : x + 5] = value
    return array


def write(path: Path, array: npt.NDArray[np.generic], grid: Grid = GRID) -> None:
    """Write an image or a mask as its name says."""
    write_volume(array, grid, path)


def hecktor2022(root: Path, patients: Sequence[str], pet: bool = True) -> Path:
    """imagesTr/CASE__CT.nii.gz, imagesTr/CASE__PT.nii.gz, labelsTr/CASE.nii.gz."""
    for seed, case in enumerate(patients):
        write(root / f"imagesTr/{case}__CT.nii.gz", volume(seed))
        if pet:
            coarse = Grid((12, 12, 12), (6.0, 4.0, 4.0), GRID.origin)
            write(root / f"imagesTr/{case}__PT.nii.gz", volume(seed, "PET")[::2, ::2, ::2], coarse)
        write(root / f"labelsTr/{case}.nii.gz", label(seed))
    return root


def hecktor2025(root: Path, patients: Sequence[str]) -> Path:
    """Task 1/CASE/CASE__CT.nii.gz, CASE__PT.nii.gz and CASE.nii.gz."""
    for seed, case in enumerate(patients):
        folder = root / "Task 1" / case
        write(folder / f"{case}__CT.nii.gz", volume(seed))
        write(folder / f"{case}__PT.nii.gz", volume(seed, "PET"))
        write(folder / f"{case}.nii.gz", label(seed))
    (root / "Task 1" / "HECKTOR_2025_Training_Task_1.csv").write_text("PatientID\n")
    return root


def hntsmrg2024(root: Path, patients: Sequence[str], empty: Sequence[str] = ()) -> Path:
    """ID/preRT and ID/midRT with T2w images and masks; `empty` have nothing left to delineate in midRT."""
    for seed, case in enumerate(patients):
        for step, when in enumerate(("preRT", "midRT")):
            folder = root / "HNTSMRG24_train" / case / when
            write(folder / f"{case}_{when}_T2.nii.gz", volume(2 * seed + step, "T2w"))
            mask = label(2 * seed + step) * np.uint8(not (when == "midRT" and case in empty))
            write(folder / f"{case}_{when}_mask.nii.gz", mask)
        write(folder / f"{case}_preRT_T2_registered.nii.gz", volume(2 * seed, "T2w"))
        write(folder / f"{case}_preRT_mask_registered.nii.gz", label(2 * seed))
    return root


def segrap(root: Path, patients: Sequence[str], masks: bool = True) -> Path:
    """CASE/image.nii.gz, image_contrast.nii.gz and, with `masks`, GTVp.nii.gz, GTVnd.nii.gz and an organ."""
    for seed, case in enumerate(patients):
        write(root / case / "image.nii.gz", volume(seed))
        write(root / case / "image_contrast.nii.gz", volume(500 + seed))
        if masks:
            for value, name in ((1, "GTVp"), (2, "GTVnd")):
                write(root / case / f"{name}.nii.gz", (label(seed) == value).astype(np.uint8))
            write(root / case / "Brain.nii.gz", (volume(seed) > 0).astype(np.uint8))
    return root


def hanseg(root: Path, patients: Sequence[str], organs: Sequence[str] = ("Parotid_L", "SpinalCord")) -> Path:
    """set_1/CASE/CASE_IMG_CT.nrrd, CASE_IMG_MR_T1.nrrd and CASE_OAR_ORGAN.seg.nrrd."""
    for seed, case in enumerate(patients):
        folder = root / "set_1" / case
        write(folder / f"{case}_IMG_CT.nrrd", volume(seed))
        write(folder / f"{case}_IMG_MR_T1.nrrd", volume(seed, "T1w"))
        for number, organ in enumerate(organs, 1):
            write(folder / f"{case}_OAR_{organ}.seg.nrrd", (label(seed) == number).astype(np.uint8))
    (root / "set_1" / "OAR_data.csv").write_text("case\n")
    return root


def nnunet_raw(root: Path, train: Sequence[str], test: Sequence[str] = ()) -> Path:
    """dataset.json, imagesTr and labelsTr, imagesTs and labelsTs; channels CT and PET."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(
        '{"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "GTV p": 1, "GTV-N": 2}, '
        f'"numTraining": {len(train)}, "file_ending": ".nii.gz"}}'
    )
    for seed, case in enumerate([*train, *test]):
        part = "Tr" if case in train else "Ts"
        write(root / f"images{part}/{case}_0000.nii.gz", volume(seed))
        write(root / f"images{part}/{case}_0001.nii.gz", volume(seed, "PET"))
        write(root / f"labels{part}/{case}.nii.gz", label(seed))
    return root


def medsam_npz(root: Path, names: Sequence[str]) -> Path:
    """NAME.npz with imgs, gts and spacing (x, y, z), as MedSAM's script packs them."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        grey = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, SIDE)).astype(np.uint8)
        np.savez_compressed(root / f"{name}.npz", imgs=grey, gts=label(seed), spacing=(0.8, 0.9, 3.0))
    return root


def bids(root: Path, subjects: Sequence[str], sessions: Sequence[str] = ("",), modalities: Sequence[str] = ()) -> Path:
    """Raw images of anat, pet and ct; derivatives/manual with a mask a structure."""
    seed = 0
    for subject in subjects:
        for session in sessions:
            seed += 1
            folder = Path(f"sub-{subject}") / (f"ses-{session}" if session else "")
            stem = f"sub-{subject}" + (f"_ses-{session}" if session else "")
            for modality in modalities:
                kind = {
                    "CT": "ct/{}_ct",
                    "PET": "pet/{}_trc-FDG_pet",
                    "T1w": "anat/{}_T1w",
                    "T2w": "anat/{}_acq-tse_T2w",
                }
                write(root / folder / f"{kind[modality].format(stem)}.nii.gz", volume(seed, modality))
            for value, name in ((1, "GTVp"), (2, "GTVn")):
                mask = (label(seed) == value).astype(np.uint8)
                write(root / "derivatives/manual" / folder / f"anat/{stem}_label-{name}_mask.nii.gz", mask)
    (root / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.9.0"}')
    return root


def openkbp_csv(
    folder: Path, ct: npt.NDArray[np.generic], spacing: Sequence[float], **masks: npt.NDArray[np.bool_]
) -> None:
    """One patient as OpenKBP publishes it, of upright arrays (z, y, x) of 128^3; an empty mask has no file."""
    folder.mkdir(parents=True, exist_ok=True)
    raveled = _raveled(np.asarray(ct).astype(np.int64) + 1024)
    index = np.flatnonzero(raveled)
    lines = [f"{i},{float(v)}" for i, v in zip(index.tolist(), raveled[index].tolist(), strict=True)]
    (folder / "ct.csv").write_text("\n".join([",data", *lines, ""]))
    for name, mask in masks.items():
        lines = [f"{i}," for i in np.flatnonzero(_raveled(mask)).tolist()]
        if lines:
            (folder / f"{name}.csv").write_text("\n".join([",data", *lines, ""]))
    sizes = (spacing[1], spacing[2], spacing[0])
    (folder / "voxel_dimensions.csv").write_text("".join(f"{size:.18e}\n" for size in sizes))
    (folder / "possible_dose_mask.csv").write_text(",data\n565029,\n")


def _raveled(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Rows, columns, slices from the head down: numpy.unravel_index(i, (128, 128, 128)) gives row, column, slice."""
    return np.moveaxis(array[::-1], 0, 2).reshape(-1)
