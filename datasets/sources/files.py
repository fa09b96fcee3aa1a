"""One tree for all patients: images and masks found by file-name patterns with `{case}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.assembly.assemble import (
    CaseFiles,
    CropOptions,
    assemble,
    check_modalities,
    check_regex,
    patient_of,
    stamp,
)
from gtvbench.datasets.assembly.masks import MaskEntry, MaskFile, meaning_of
from gtvbench.datasets.assembly.patterns import CASE, cases_of, check_pattern, files_of, listed, near
from gtvbench.datasets.base import CaseEntry, SourceOptions
from gtvbench.datasets.registration.register import RegistrationOptions

_EXAMPLE = """dataset:
  source: files
  path: hecktor2022_training
  images: {CT: "imagesTr/{case}__CT.nii.gz", PET: "imagesTr/{case}__PT.nii.gz"}
  masks:
    - {file: "labelsTr/{case}.nii.gz", labels: {1: GTV-T, 2: GTV-N}}"""


class FilesOptions(SourceOptions):
    """Where the tree is and how its files are called.

    `images`: a pattern below `path` for each modality, with `{case}` for the case's name (`*` and `?` stay within a
    folder, `**/` does not); the pattern of `reference-modality`, which carries the grid, finds the cases. `masks`: see
    MaskEntry; their patterns have `{case}` too. `case-regex`: what `{case}` may be, where the pattern alone does not
    tell. `patient-regex`: where a patient has several cases, its first group finds the patient in the case's name.
    `exclude`: cases left out. `crop`: see CropOptions.
    """

    path: str
    images: dict[str, str] = Field(min_length=1)
    reference_modality: str = "CT"
    masks: tuple[MaskEntry, ...] = Field(min_length=1)
    case_regex: str = "[^/]+"
    patient_regex: str | None = None
    exclude: tuple[str, ...] = ()
    crop: CropOptions | None = None
    registration: RegistrationOptions | None = None

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
        for pattern in (*self.images.values(), *(mask.file for mask in self.masks)):
            check_pattern(pattern)
        if self.reference_modality not in self.images:
            raise ValueError(f"'images' has no pattern for the reference modality {self.reference_modality}")
        return self


class Files:
    """One tree for all patients, patterns with {case} per modality and mask; every modality on its own grid."""

    Options: ClassVar[type[SourceOptions]] = FilesOptions
    description: ClassVar[str] = "one tree for all patients, files by patterns with {case}; any grids"
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: FilesOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        check_modalities([*options.images, options.reference_modality])
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._structures = tuple(structures)
        self._meanings = [meaning_of(entry, structures) for entry in options.masks]
        self._found: tuple[str, ...] | None = None

    def entries(self) -> list[CaseEntry]:
        """A case for each file of the reference's pattern; raises DataError where there is none, or none has a mask."""
        settings = self._options.settings({"path", "exclude"})
        cases = self._cases()
        self._require_masks(cases)
        found = []
        for case in cases:
            patterns = [*self._options.images.values(), *(mask.file for mask in self._options.masks)]
            paths = sorted({path for pattern in patterns for path in files_of(self._root, pattern, case)})
            identity = {
                "source": "files",
                "version": self.version,
                "options": settings,
                "files": dict(stamp(path, self._root) for path in paths),
            }
            found.append(CaseEntry(case, patient_of(case, self._options.patient_regex), identity))
        return found

    def modalities(self) -> tuple[str, ...]:
        """Modalities of which at least one case has a file."""
        cases, patterns = self._cases(), self._options.images
        return tuple(
            m for m in MODALITIES if m in patterns and any(files_of(self._root, patterns[m], case) for case in cases)
        )

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one case; raises DataError naming case, file and remedy."""
        images = {m: self._one(self._options.images[m], f"the {m} image", entry.name) for m in self.modalities()}
        files = CaseFiles(entry.name, entry.patient, images, self._options.reference_modality, self._masks(entry.name))
        case = assemble(files, self._structures, self._options.crop, self._options.registration)
        absent = [f"no case has a {m} image ({p})" for m, p in self._options.images.items() if m not in images]
        return replace(case, notes=(*case.notes, *absent))

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Nothing beyond the generic checks."""
        return []

    def _cases(self) -> tuple[str, ...]:
        if self._found is not None:
            return self._found
        if not self._root.is_dir():
            raise DataError("the folder of the data set does not exist", file=self._root, remedy="check 'path'")
        pattern = self._options.images[self._options.reference_modality]
        every = cases_of(self._root, pattern, self._options.case_regex)
        if not every:
            raise DataError(
                f"no file matches the pattern of the {self._options.reference_modality} image: {pattern}",
                file=self._root,
                remedy=f"{near(self._root, pattern)}; a layout that works:\n{_EXAMPLE}",
            )
        unknown = sorted(set(self._options.exclude) - set(every))
        if unknown:
            raise StudyError(f"'exclude' names cases that are not there: {listed(unknown)}", file=self._root)
        self._found = tuple(case for case in every if case not in self._options.exclude)
        return self._found

    def _require_masks(self, cases: Sequence[str]) -> None:
        """A pattern of a mask that matches for no case at all is a mistake in the study file."""
        for mask in self._options.masks:
            if not mask.optional and not any(files_of(self._root, mask.file, case) for case in cases):
                raise DataError(
                    f"no case has a file that matches the pattern of the mask: {mask.file}",
                    file=self._root,
                    remedy=f"{near(self._root, mask.file)}; a layout that works:\n{_EXAMPLE}",
                )

    def _masks(self, case: str) -> list[MaskFile]:
        found = []
        for entry, meaning in zip(self._options.masks, self._meanings, strict=True):
            paths = files_of(self._root, entry.file, case)
            if not paths and entry.optional:
                continue
            if not entry.several or not paths:
                paths = [self._one(entry.file, "the mask", case)]
            found += [MaskFile(path, meaning) for path in paths]
        return found

    def _one(self, pattern: str, what: str, case: str) -> Path:
        found = files_of(self._root, pattern, case)
        if not found:
            raise DataError(
                f"no file matches the pattern of {what}: {pattern}",
                case=case,
                file=self._root / pattern.replace(CASE, case),
                remedy="supply the file, fix the pattern or leave the case out ('exclude'); "
                + near(self._root, pattern.replace(CASE, case)),
            )
        if len(found) > 1:
            names = listed(path.relative_to(self._root).as_posix() for path in found)
            raise DataError(
                f"{len(found)} files match the pattern of {what} ({pattern}): {names}",
                case=case,
                file=self._root,
                remedy="narrow the pattern to one file" + (", or set 'several: true'" if "mask" in what else ""),
            )
        return found[0]
