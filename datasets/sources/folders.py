"""Patients as folders: one folder each, files found by patterns that the study file gives."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.geometry import canonical
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.nifti import read_grid
from gtvbench.datasets.assembly.assemble import (
    CaseFiles,
    CropOptions,
    assemble,
    check_modalities,
    check_regex,
    patient_of,
    stamp,
)
from gtvbench.datasets.assembly.masks import MaskEntry, MaskFile, Meaning, meaning_of, merged_label
from gtvbench.datasets.assembly.patterns import folders_of, near
from gtvbench.datasets.base import CaseEntry, SourceOptions
from gtvbench.datasets.registration.register import RegistrationOptions

_EXAMPLE = """dataset:
  source: folders
  path: patients
  images: {CT: ct.nii.gz, PET: pet.nii.gz}
  masks:
    - {file: gtv.nii.gz, labels: {1: GTV-T, 2: GTV-N}}"""


class FoldersOptions(SourceOptions):
    """Where the folders are and how their files are called.

    `path`: folder of the patients' folders. `patients`: pattern(s) of their names below it; `exclude`: names left out.
    `images`: a pattern for each modality; `masks`: see MaskEntry. In patterns `{patient}` stands for the folder's name.
    `reference-modality` carries the grid that everything else is brought to. `patient-regex`: where a patient has
    several folders, its first group finds the patient in the folder's name. `check-masks`: masks of the same structures
    drawn on other modalities; `bench check` warns of a DSC below `check-dsc`. `crop`: see CropOptions.
    `registration`: see RegistrationOptions; without it headers are trusted.
    """

    path: str
    patients: str | tuple[str, ...] = "*"
    exclude: tuple[str, ...] = ()
    images: dict[str, str] = Field(min_length=1)
    reference_modality: str = "CT"
    masks: tuple[MaskEntry, ...] = Field(min_length=1)
    check_masks: dict[str, str | MaskEntry] = Field(default_factory=dict)
    check_dsc: float = Field(0.8, ge=0, le=1)
    patient_regex: str | None = None
    crop: CropOptions | None = None
    registration: RegistrationOptions | None = None

    _regex = field_validator("patient_regex")(check_regex)

    @model_validator(mode="after")
    def _has_reference(self) -> FoldersOptions:
        if self.reference_modality not in self.images:
            raise ValueError(f"'images' has no pattern for the reference modality {self.reference_modality}")
        return self


class Folders:
    """One folder a patient, file-name patterns per modality and mask; every modality on its own grid."""

    Options: ClassVar[type[SourceOptions]] = FoldersOptions
    description: ClassVar[str] = (
        "one folder a patient, files by patterns; any grids, brought to the reference modality's"
    )
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: FoldersOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        check_modalities([*options.images, options.reference_modality])
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._structures = tuple(structures)
        self._meanings = [meaning_of(entry, structures) for entry in options.masks]
        first = options.masks[0]
        self._checks = {
            name: given if isinstance(given, MaskEntry) else first.model_copy(update={"file": given})
            for name, given in options.check_masks.items()
        }
        self._check_meanings = {name: meaning_of(entry, structures) for name, entry in self._checks.items()}
        self._found: dict[str, Path] | None = None

    def entries(self) -> list[CaseEntry]:
        """One case a folder; raises DataError where there is none, or none of them has the reference image or masks."""
        aside = {"path", "patients", "exclude", "check_masks", "check_dsc"}  # what changes no case
        settings = self._options.settings(aside)
        folders = self._folders()
        self._require_somewhere(folders)
        found = []
        for name, folder in folders.items():
            patterns = [*self._options.images.values(), *(m.file for m in self._options.masks)]
            paths = sorted({path for pattern in patterns for path in _matches(folder, pattern)})
            identity = {
                "source": "folders",
                "version": self.version,
                "options": settings,
                "files": dict(stamp(path, folder) for path in paths),
            }
            found.append(CaseEntry(name, patient_of(name, self._options.patient_regex), identity))
        return found

    def modalities(self) -> tuple[str, ...]:
        """Modalities of which at least one patient has a file."""
        folders = self._folders().values()
        patterns = self._options.images
        return tuple(
            m for m in MODALITIES if m in patterns and any(_matches(folder, patterns[m]) for folder in folders)
        )

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one patient; raises DataError naming patient, file and remedy."""
        folder = self._folder(entry.name)
        images = {m: _one(folder, self._options.images[m], m, entry.name) for m in self.modalities()}
        files = CaseFiles(
            entry.name, entry.patient, images, self._options.reference_modality, self._masks(folder, entry.name)
        )
        case = assemble(files, self._structures, self._options.crop, self._options.registration)
        absent = [f"no patient has a {m} image ({p})" for m, p in self._options.images.items() if m not in images]
        return replace(case, notes=(*case.notes, *absent))

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Disagreement between the masks of the reference and those drawn on other modalities (`check-masks`)."""
        if not self._checks:
            return []
        folder = self._folder(entry.name)
        reference = self._options.reference_modality
        raw = read_grid(_one(folder, self._options.images[reference], reference, entry.name), entry.name)
        grid = canonical(raw).apply_to_grid(raw)
        label, _ = merged_label(self._masks(folder, entry.name), grid, self._structures, entry.name)
        found = []
        for name, check in self._checks.items():
            files = _mask_files(folder, check, self._check_meanings[name], entry.name)
            if not files:
                continue
            other, _ = merged_label(files, grid, self._structures, entry.name)
            for structure in self._structures:
                mine, theirs = label == structure.value, other == structure.value
                total = int(np.count_nonzero(mine)) + int(np.count_nonzero(theirs))
                dsc = 2 * int(np.count_nonzero(mine & theirs)) / total if total else 1.0
                if dsc < self._options.check_dsc:
                    a, b = (np.count_nonzero(m) * grid.voxel_volume_mm3 / 1000 for m in (mine, theirs))
                    found.append(
                        f"{structure.name}: the masks of {reference} ({a:.1f} ml) and {name} ({b:.1f} ml) disagree, "
                        f"DSC {dsc:.2f}; look at both, and exclude the patient where the reference cannot be trusted"
                    )
        return found

    def _folders(self) -> dict[str, Path]:
        """The patients' folders by name, sorted."""
        if self._found is not None:
            return self._found
        self._found = folders_of(self._root, self._options.patients, self._options.exclude)
        return self._found

    def _folder(self, name: str) -> Path:
        return self._folders()[name]

    def _require_somewhere(self, folders: Mapping[str, Path]) -> None:
        """A pattern of the reference or of a mask that matches in no folder at all is a mistake in the study file."""
        reference = self._options.reference_modality
        patterns = {self._options.images[reference]: f"{reference} image"}
        patterns.update({m.file: "mask" for m in self._options.masks if not m.optional})
        for pattern, what in patterns.items():
            if not any(_matches(folder, pattern) for folder in folders.values()):
                name, folder = next(iter(folders.items()))
                raise DataError(
                    f"no patient has a file that matches the pattern of the {what}: {pattern}",
                    file=self._root,
                    remedy=f"{_near(folder, pattern)} (in {name}); a layout that works:\n{_EXAMPLE}",
                )

    def _masks(self, folder: Path, case: str) -> list[MaskFile]:
        pairs = zip(self._options.masks, self._meanings, strict=True)
        return [file for entry, meaning in pairs for file in _mask_files(folder, entry, meaning, case)]


def _mask_files(folder: Path, entry: MaskEntry, meaning: Meaning, case: str) -> list[MaskFile]:
    found = _matches(folder, entry.file)
    if not found and entry.optional:
        return []
    if not entry.several:
        found = [_one(folder, entry.file, "mask", case)]
    elif not found:
        raise _missing(folder, entry.file, "mask", case)
    return [MaskFile(path, meaning) for path in found]


def _matches(folder: Path, pattern: str) -> list[Path]:
    """Files of a patient's folder that match a pattern, sorted."""
    return sorted(
        path for path in folder.glob(pattern.replace("{patient}", glob.escape(folder.name))) if path.is_file()
    )


def _one(folder: Path, pattern: str, what: str, case: str) -> Path:
    found = _matches(folder, pattern)
    if not found:
        raise _missing(folder, pattern, what, case)
    if len(found) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:6])
        raise DataError(
            f"{len(found)} files match the pattern of {what} ({pattern}): {names}",
            case=case,
            file=folder,
            remedy="narrow the pattern to one file" + (", or set 'several: true'" if what == "mask" else ""),
        )
    return found[0]


def _missing(folder: Path, pattern: str, what: str, case: str) -> DataError:
    return DataError(
        f"no file matches the pattern of {what}: {pattern}",
        case=case,
        file=folder,
        remedy=f"supply the file, fix the pattern or exclude the patient ('exclude'); {_near(folder, pattern)}",
    )


def _near(folder: Path, pattern: str) -> str:
    return near(folder, pattern.replace("{patient}", folder.name))
