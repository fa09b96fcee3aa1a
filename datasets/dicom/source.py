"""DICOM folders as a source of cases: patients, series and structure sets found by headers, named by pseudonyms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.digest import digest_json
from gtvbench.bench.core.errors import BenchError, DataError, StudyError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.geometry import Grid, Volume, canonical
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.assembly.assemble import CaseParts, CropOptions, Part, check_modalities, put_together
from gtvbench.datasets.base import CaseEntry, SourceOptions
from gtvbench.datasets.dicom.choice.names import name_patterns
from gtvbench.datasets.dicom.choice.rules import Choice, PatientRule, SeriesRule, StructureRule, candidates, choose
from gtvbench.datasets.dicom.headers.index import Index, Patient, Stack, StructureFile, build_index
from gtvbench.datasets.dicom.images.series import Series, read_series
from gtvbench.datasets.dicom.images.suv import SuvOptions, suv_factor
from gtvbench.datasets.dicom.pseudonyms import Pseudonyms
from gtvbench.datasets.dicom.structures.contours import Mask, read_structures, roi_mask
from gtvbench.datasets.registration.register import RegistrationOptions

#: What scanners write outside their field of view (-2000, -3024) is no HU: the scale ends at air, 12 bits below water.
LOWEST_HU = -1024.0
#: In the private folder.
KEY_FILE, INDEX_FILE = "pseudonyms.json", "dicom-index.json"


class PatientOptions(PatientRule):
    """What one patient needs beyond the rules for all patients."""

    suv: SuvOptions = Field(default_factory=lambda: SuvOptions.model_validate({}))
    """Values for SUV that the headers lack."""


class DicomOptions(SourceOptions):
    """Source `dicom`: where the DICOM files are, and which of them are used (dicom.md)."""

    path: str
    """Folder of the files, searched at every depth. Names of files and folders may be anything."""
    private_folder: str = "gtvbench-private"
    """Where the key of the pseudonyms and the index of headers are kept, relative to the study file. Never share it. It
    may not lie inside `path` or a run folder."""
    series: dict[str, SeriesRule | None] = Field(default_factory=dict)
    """A rule for each modality. A modality that is not named is taken by the default rule; `null` leaves it out."""
    structure_set: StructureRule = Field(default_factory=lambda: StructureRule.model_validate({}))
    """Which structure set is used."""
    names: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Names of regions for each structure of the study: patterns (`*`, `?`, `[...]`), or `re:` and a regular
    expression."""
    overlap: Literal["earlier", "smaller", "error"] = "earlier"
    """Who keeps a voxel that two structures claim: the `earlier` one of `names` (then of the study), the `smaller` one,
    or nobody (`error`)."""
    patients: dict[str, PatientOptions] = Field(default_factory=dict)
    """Exceptions for single patients, by pseudonym."""
    exclude: tuple[str, ...] = ()
    """Patients that are left out, by pseudonym."""
    reference_modality: str = "CT"
    """Modality that carries the grid."""
    crop: CropOptions | None = None
    """A new, random crop of the images."""
    registration: RegistrationOptions | None = None
    """Register images to the reference. Without this key their headers are trusted."""


class DicomSource:
    """DICOM folders: CT, PET, T1w, T2w series and RTSTRUCT or SEG, found by headers; patients under pseudonyms."""

    Options: ClassVar[type[SourceOptions]] = DicomOptions
    description: ClassVar[str] = "DICOM folders (CT, PET, MR; RTSTRUCT or SEG), found by headers; see bench scan"
    version: ClassVar[int] = 2
    synthetic: ClassVar[bool] = False

    def __init__(self, options: DicomOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        check_modalities([*options.series, options.reference_modality])
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._private = base / Path(options.private_folder).expanduser()
        self._structures = tuple(structures)
        self._names = name_patterns(options.names, structures)
        self._blank = SeriesRule.model_validate({})
        if options.series.get(options.reference_modality, self._blank) is None:
            raise StudyError(f"'series' leaves out {options.reference_modality}, which carries the grid")

    # ---- what is there

    @cached_property
    def index(self) -> Index:
        """The folder's index; made, or brought up to date, when it is first asked for."""
        if self._private.resolve().is_relative_to(self._root.resolve()):
            raise StudyError(
                "'private-folder' lies inside the DICOM folder", file=self._private, remedy="choose another place"
            )
        return build_index(self._root, self._private / INDEX_FILE)

    @cached_property
    def _patients(self) -> dict[str, Patient]:
        """Patients by pseudonym, sorted."""
        index = self.index
        names = Pseudonyms.open(self._private / KEY_FILE).names(list(index.patients))
        found = {names[key]: patient for key, patient in index.patients.items()}
        for what, given in (("exclude", self._options.exclude), ("patients", self._options.patients)):
            unknown = sorted(set(given) - set(found))
            if unknown:
                raise StudyError(
                    f"'{what}' names patients that are not there: {', '.join(unknown)}",
                    remedy=f"pseudonyms are {', '.join(sorted(found)[:8])} ... (see bench scan)",
                )
        return {name: found[name] for name in sorted(found) if name not in self._options.exclude}

    def _rules(self, case: str) -> dict[str, SeriesRule]:
        own = self._options.patients[case].series if case in self._options.patients else {}
        rules = {m: own.get(m, self._options.series.get(m, self._blank)) for m in MODALITIES}
        return {modality: rule for modality, rule in rules.items() if rule is not None}

    def choice(self, case: str) -> Choice:
        """Series and structure set of a case; raises DataError, listing candidates, where the rules do not decide."""
        own = self._options.patients.get(case)
        rule = (own.structure_set if own is not None else None) or self._options.structure_set
        reference = self._options.reference_modality
        return choose(self._patients[case], case, self._rules(case), rule, self._names, reference)

    def entries(self) -> list[CaseEntry]:
        """One case a patient, under its pseudonym; a patient whose series cannot be chosen fails when it is read."""
        found = []
        aside = set(DicomOptions.model_fields) - {"overlap", "crop", "reference_modality", "registration"}
        settings = self._options.settings(aside)
        for case in self._patients:
            identity: dict[str, Any] = {"options": settings}
            try:
                choice = self.choice(case)
            except BenchError as error:
                identity["undecided"] = error.message
            else:
                own = self._options.patients.get(case)
                identity["suv"] = own.suv.model_dump(mode="json") if own is not None else None
                identity["regions"] = {name: list(regions) for name, regions in choice.regions.items()}
                rows = {m: [(r.path, r.stamp) for r in stack.files] for m, stack in choice.stacks.items()}
                rows["structures"] = [(choice.structures.file.path, choice.structures.file.stamp)]
                identity["input"] = digest_json(rows)
                identity["bytes"] = sum(stamp[0] for files in rows.values() for _, stamp in files)
            found.append(CaseEntry(case, case, identity))
        return found

    def modalities(self) -> tuple[str, ...]:
        """Modalities that at least one patient has a series of."""
        return tuple(
            m
            for m in MODALITIES
            if any(m in (rules := self._rules(c)) and candidates(p, m, rules[m]) for c, p in self._patients.items())
        )

    def sensitive(self, entry: CaseEntry) -> frozenset[str]:
        """What of a patient's headers and files must not leave: names, number, dates, UIDs, names of files."""
        patient = self._patients[entry.name]
        terms = {patient.id}
        for facts in patient.facts:
            terms |= {facts.patient_name, *facts.patient_name.replace("^", " ").split(), facts.birth_date}
            terms |= {facts.study, facts.series, facts.frame_of_reference, facts.study_date, facts.made[:8]}
        rows = [row for stack in patient.stacks for row in stack.files] + [item.file for item in patient.structures]
        terms |= {part for row in rows for part in (row.path, Path(row.path).name, Path(row.path).stem)}
        return frozenset(term for term in terms if len(term) > 2)

    def reference_files(self, entry: CaseEntry) -> tuple[Path, ...]:
        """DICOM files of the series that carries the case's grid."""
        stack = self.choice(entry.name).stacks[self._options.reference_modality]
        return tuple(self.index.path(row) for row in stack.files)

    # ---- reading

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one patient; raises DataError naming case, file and remedy."""
        with warnings.catch_warnings():
            # pydicom warns of values that break a VR's rules, and quotes them; those needed are checked where used.
            warnings.simplefilter("ignore", UserWarning)
            return self._read_case(entry)

    def _read_case(self, entry: CaseEntry) -> SourceCase:
        case = entry.name
        choice = self.choice(case)
        notes = _notes(self._patients[case], choice, self.index)
        native: list[Grid] = []

        def of_reference(series: Series) -> Volume:
            native.append(series.volume.grid)
            return series.volume

        parts = {}
        for modality, stack in choice.stacks.items():
            then = of_reference if modality == self._options.reference_modality else _volume
            file = self.index.path(stack.files[0])
            read = partial(self._read, case, modality, stack, then)
            parts[modality] = Part(file, read, stack.facts.frame_of_reference)

        def label(grid: Grid) -> tuple[npt.NDArray[np.uint8], list[str]]:
            # Contours are drawn on the series' own slices, so they become a mask on its own grid and are turned then.
            frame = choice.stacks[self._options.reference_modality].facts.frame_of_reference
            drawn, told = self._label(case, choice, native[0], frame)
            return np.ascontiguousarray(canonical(native[0]).apply(drawn)), told

        found = put_together(
            CaseParts(case, entry.patient, self._options.reference_modality, parts, label),
            self._options.crop,
            self._options.registration,
        )
        return replace(found, notes=(*notes, *found.notes))

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Whether one number stands for two names."""
        names = {facts.patient_name.upper().rstrip("^ ") for facts in self._patients[entry.name].facts}
        if len(names - {""}) > 1:
            return ["files of one PatientID bear different names: two patients may share a number; check them"]
        return []

    def _read(self, case: str, modality: str, stack: Stack, then: Callable[[Series], Volume]) -> Volume:
        series = read_series([self.index.path(row) for row in stack.files], case)
        array = series.volume.array
        if modality == "CT":
            np.maximum(array, np.float32(LOWEST_HU), out=array)
        if modality == "PET":
            own = self._options.patients.get(case)
            options = own.suv if own is not None else SuvOptions.model_validate({})
            factor = suv_factor(series.headers, options)
            array *= np.float32(factor.factor)
        return then(series)

    def _label(self, case: str, choice: Choice, grid: Grid, frame: str) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """The label map on the reference series' own grid, and notes on what had to be decided."""
        notes: list[str] = []
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        path = self.index.path(choice.structures.file)
        for structure, regions in choice.regions.items():
            for name, mask in _masks(path, choice.structures, regions, grid, frame, case):
                notes += [f"{name}: {note}" for note in mask.notes]
                masks[structure] = masks[structure] | mask.array if structure in masks else mask.array
        values = {structure.name: structure.value for structure in self._structures}
        order = [name for name in self._names.patterns if name in masks]
        if self._options.overlap == "smaller":
            order.sort(key=lambda name: (int(np.count_nonzero(masks[name])), name))
        label = np.zeros(grid.shape, np.uint8)
        for name in order:
            claimed = masks[name] & (label > 0)
            count = int(np.count_nonzero(claimed))
            if count and self._options.overlap == "error":
                raise DataError(
                    f"{count} voxels of {name} belong to another structure too",
                    case=case,
                    file=path,
                    remedy="correct the structures, or choose who keeps them with 'overlap: earlier' or 'smaller'",
                )
            if count:
                volume = count * grid.voxel_volume_mm3 / 1000
                who = "smaller" if self._options.overlap == "smaller" else "earlier"
                notes.append(f"{count} voxels ({volume:.2f} ml) of {name} are kept by the {who} structure")
            label[masks[name] & ~claimed] = values[name]
        return label, notes


def _volume(series: Series) -> Volume:
    return series.volume


def _masks(
    path: Path, structures: StructureFile, regions: Sequence[str], grid: Grid, frame: str, case: str
) -> list[tuple[str, Mask]]:
    if structures.facts.modality == "SEG":
        from gtvbench.datasets.dicom.structures.segmentation import read_segmentation, segment_mask

        segmentation = read_segmentation(path, case)
        return [(name, segment_mask(segmentation, name, grid, frame)) for name in regions]
    read = read_structures(path, case)
    found = []
    for name in regions:
        if read.roi(name).contours == 0:
            nothing = np.zeros(grid.shape, bool)
            found.append((name, Mask(nothing, ("it has no contours: the patient counts as having none of it",))))
        else:
            found.append((name, roi_mask(read, name, grid, frame)))
    return found


def _notes(patient: Patient, choice: Choice, index: Index) -> list[str]:
    notes = []
    for modality, stack in choice.stacks.items():
        if stack.others:
            notes.append(
                f"{modality}: {stack.others} file(s) of the series differ in size, orientation, image type or echo and "
                "were left out"
            )
        folders = {Path(row.path).parent for row in stack.files}
        broken = sum(Path(path).parent in folders for path in index.unreadable)
        if broken:
            notes.append(f"{modality}: {broken} DICOM file(s) beside the series cannot be read: slices may be missing")
    if patient.copies:
        notes.append(f"{patient.copies} file(s) are there twice and were taken once")
    return notes
