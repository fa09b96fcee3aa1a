"""Patients as image files, found by patterns that the study file gives: a folder each, or one tree for all of them."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
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
from gtvbench.datasets.assembly.patterns import CASE, cases_of, check_pattern, files_of, folders_of, listed, near
from gtvbench.datasets.base import CaseEntry, Inventory, SourceOptions
from gtvbench.datasets.registration.register import RegistrationOptions

_PATIENT = "{patient}"

_FOLDERS_EXAMPLE = """dataset:
  source: files
  path: patients
  images: {CT: ct.nii.gz, PET: pet.nii.gz}
  masks:
    - {file: gtv.nii.gz, labels: {1: GTV-T, 2: GTV-N}}"""

_TREE_EXAMPLE = """dataset:
  source: files
  path: hecktor2022_training
  images: {CT: "imagesTr/{case}__CT.nii.gz", PET: "imagesTr/{case}__PT.nii.gz"}
  masks:
    - {file: "labelsTr/{case}.nii.gz", labels: {1: GTV-T, 2: GTV-N}}"""


class FilesOptions(SourceOptions):
    """Source `files` (also under its former name `folders`): image files by patterns.

    Patterns without `{case}` are of files in one folder for each patient. Patterns with `{case}` are of one tree
    for all patients: the pattern of the reference modality finds the cases. `*` and `?` stay within a folder, `**/`
    does not.
    """

    path: str
    """Folder of the data, relative to the study file."""
    patients: str | tuple[str, ...] = "*"
    """Patterns without `{case}`: pattern of the patients' folders below `path`, or several patterns. `{patient}` in a
    file's pattern stands for the folder's name."""
    images: dict[str, str] = Field(min_length=1)
    """A file pattern for each modality: `CT`, `PET`, `T1w`, `T2w`."""
    reference_modality: str = "CT"
    """Modality that carries the grid, to which everything else is brought."""
    masks: tuple[MaskEntry, ...] = Field(min_length=1)
    """Files of the reference masks. Where they overlap, earlier entries win."""
    check_masks: dict[str, str | MaskEntry] = Field(default_factory=dict)
    """Masks of the same structures drawn on other modalities, by modality. `bench check` warns where they disagree."""
    check_dsc: float = Field(0.8, ge=0, le=1)
    """DSC below which `bench check` warns of `check-masks`."""
    case_regex: str = "[^/]+"
    """What `{case}` may be, where the pattern alone does not tell: a regular expression without groups."""
    patient_regex: str | None = None
    """Where a patient has several cases: a regular expression whose first group finds the patient in the case's name.
    """
    exclude: tuple[str, ...] = ()
    """Cases that are left out."""
    crop: CropOptions | None = None
    """A new, random crop of the images."""
    registration: RegistrationOptions | None = None
    """Register images to the reference. Without this key their headers are trusted."""

    _regex = field_validator("patient_regex")(check_regex)

    @field_validator("case_regex")
    @classmethod
    def _readable(cls, text: str) -> str:
        try:
            named = re.compile(text).groups
        except re.error as error:
            raise ValueError(f"'case-regex' is not a regular expression ({error})") from error
        if named:
            raise ValueError("'case-regex' has no groups of its own; write (?:...) for alternatives")
        return text

    @model_validator(mode="after")
    def _patterns(self) -> FilesOptions:
        if self.reference_modality not in self.images:
            raise ValueError(f"'images' has no pattern for the reference modality {self.reference_modality}")
        if self.one_tree:
            checks = [c if isinstance(c, str) else c.file for c in self.check_masks.values()]
            for pattern in (*self.images.values(), *(mask.file for mask in self.masks), *checks):
                check_pattern(pattern)
        return self

    @property
    def one_tree(self) -> bool:
        """Whether the files of all patients lie in one tree, told apart by `{case}`."""
        return any(CASE in pattern for pattern in (*self.images.values(), *(mask.file for mask in self.masks)))


class Files:
    """Image files by patterns, one for each modality and mask; every modality on its own grid."""

    Options: ClassVar[type[SourceOptions]] = FilesOptions
    description: ClassVar[str] = (
        "image files by patterns, a folder a patient or one tree; any grids, brought to the reference modality's"
    )
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: FilesOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
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
        self._found: Mapping[str, Path] | None = None

    def entries(self) -> list[CaseEntry]:
        """The cases, sorted; raises DataError where there is none, or none of them has the reference image or masks."""
        settings = self._options.settings({"path", "patients", "exclude", "check_masks", "check_dsc"})
        cases = self._cases()
        self._require_somewhere(cases)
        patterns = [*self._options.images.values(), *(mask.file for mask in self._options.masks)]
        found = []
        for case, folder in cases.items():
            paths = sorted({path for pattern in patterns for path in self._matches(case, pattern)})
            identity = {
                "options": settings,
                "files": dict(stamp(path, folder) for path in paths),
            }
            found.append(CaseEntry(case, patient_of(case, self._options.patient_regex), identity))
        return found

    def inventory(self) -> list[Inventory]:
        """What each case has of what is needed: images and masks, or any mask where all of them are optional."""
        options = self._options
        first = options.reference_modality
        wanted = {m: [options.images[m]] for m in sorted(options.images, key=lambda m: m != first)}
        needed = [mask for mask in options.masks if not mask.optional]
        wanted |= {mask.structure or "label map": [mask.file] for mask in needed}
        if not needed:
            wanted["any mask"] = [mask.file for mask in options.masks]
        return [
            Inventory(
                case,
                patient_of(case, options.patient_regex),
                folder,
                {what: any(self._matches(case, p) for p in patterns) for what, patterns in wanted.items()},
            )
            for case, folder in self._cases().items()
        ]

    def modalities(self) -> tuple[str, ...]:
        """Modalities of which at least one case has a file."""
        cases, patterns = self._cases(), self._options.images
        return tuple(m for m in MODALITIES if m in patterns and any(self._matches(case, patterns[m]) for case in cases))

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one case; raises DataError naming case, file and remedy."""
        images = {m: self._image(m, entry.name) for m in self.modalities()}
        files = CaseFiles(entry.name, entry.patient, images, self._options.reference_modality, self._masks(entry.name))
        case = assemble(files, self._structures, self._options.crop, self._options.registration)
        absent = [f"no case has a {m} image ({p})" for m, p in self._options.images.items() if m not in images]
        return replace(case, notes=(*case.notes, *absent))

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Disagreement between the masks of the reference and those drawn on other modalities (`check-masks`)."""
        if not self._checks:
            return []
        reference = self._options.reference_modality
        raw = read_grid(self._image(reference, entry.name), entry.name)
        grid = canonical(raw).apply_to_grid(raw)
        label, _ = merged_label(self._masks(entry.name), grid, self._structures, entry.name)
        found = []
        for name, check in self._checks.items():
            files = self._mask_files(check, self._check_meanings[name], entry.name)
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

    def _cases(self) -> Mapping[str, Path]:
        """The folder that each case's patterns start in, by case, sorted."""
        if self._found is None:
            options = self._options
            self._found = (
                self._cases_of_tree() if options.one_tree else folders_of(self._root, options.patients, options.exclude)
            )
        return self._found

    def _cases_of_tree(self) -> Mapping[str, Path]:
        if not self._root.is_dir():
            raise DataError("the folder of the data set does not exist", file=self._root, remedy="check 'path'")
        reference = self._options.reference_modality
        every = cases_of(self._root, self._options.images[reference], self._options.case_regex)
        if not every:
            raise self._nowhere(f"{reference} image", self._options.images[reference], self._root)
        unknown = sorted(set(self._options.exclude) - set(every))
        if unknown:
            raise StudyError(f"'exclude' names cases that are not there: {listed(unknown)}", file=self._root)
        return {case: self._root for case in every if case not in self._options.exclude}

    def _require_somewhere(self, cases: Mapping[str, Path]) -> None:
        """A pattern of the reference or of a mask that matches for no case at all is a mistake in the study file."""
        reference = self._options.reference_modality
        patterns = {self._options.images[reference]: f"{reference} image"}
        patterns.update({mask.file: "mask" for mask in self._options.masks if not mask.optional})
        for pattern, what in patterns.items():
            if not any(self._matches(case, pattern) for case in cases):
                raise self._nowhere(what, pattern, next(iter(cases.values()), self._root))

    def _nowhere(self, what: str, pattern: str, looked_in: Path) -> DataError:
        example = _TREE_EXAMPLE if self._options.one_tree else _FOLDERS_EXAMPLE
        where = "" if looked_in == self._root else f" (in {looked_in.name})"
        return DataError(
            f"no case has a file that matches the pattern of the {what}: {pattern}",
            file=self._root,
            remedy=f"{near(looked_in, pattern)}{where}; a layout that works:\n{example}",
        )

    def _image(self, modality: str, case: str) -> Path:
        return self._one(self._options.images[modality], f"the {modality} image", case)

    def _masks(self, case: str) -> list[MaskFile]:
        pairs = zip(self._options.masks, self._meanings, strict=True)
        return [file for entry, meaning in pairs for file in self._mask_files(entry, meaning, case)]

    def _mask_files(self, entry: MaskEntry, meaning: Meaning, case: str) -> list[MaskFile]:
        found = self._matches(case, entry.file)
        if not found and entry.optional:
            return []
        if not entry.several or not found:
            found = [self._one(entry.file, "the mask", case)]
        return [MaskFile(path, meaning) for path in found]

    def _matches(self, case: str, pattern: str) -> list[Path]:
        """Files of a case that match a pattern, sorted."""
        folder = self._cases()[case]
        if self._options.one_tree:
            return files_of(folder, pattern, case)
        wanted = pattern.replace(_PATIENT, glob.escape(folder.name))
        return sorted(path for path in folder.glob(wanted) if path.is_file())

    def _one(self, pattern: str, what: str, case: str) -> Path:
        found, folder = self._matches(case, pattern), self._cases()[case]
        if not found:
            named = pattern.replace(CASE, case).replace(_PATIENT, case)
            raise DataError(
                f"no file matches the pattern of {what}: {pattern}",
                case=case,
                file=folder / named,
                remedy=f"supply the file, fix the pattern or leave the case out ('exclude'); {near(folder, named)}",
            )
        if len(found) > 1:
            names = listed(path.relative_to(folder).as_posix() for path in found)
            raise DataError(
                f"{len(found)} files match the pattern of {what} ({pattern}): {names}",
                case=case,
                file=folder,
                remedy="narrow the pattern to one file" + (", or set 'several: true'" if "mask" in what else ""),
            )
        return found[0]
