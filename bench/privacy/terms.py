"""What a search of a run folder looks for: the identifying values of a DICOM input, and where an input lies.

Which attributes identify is taken from the Basic Application Level Confidentiality Profile (DICOM PS3.15, Annex E), as
far as their values can be told from ordinary words and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gtvbench.bench.core.errors import DataError

#: From so many files on, headers are read in several processes.
_MANY = 400
_CHUNK = 64

_IDS = frozenset({
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "AdmissionID",
    "DeviceSerialNumber",
    "StationName", "GantryID", "DetectorID", "PerformedProcedureStepID", "ScheduledProcedureStepID",
    "RequestedProcedureID", "PerformedStationName", "ServiceEpisodeID", "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest", "MedicalRecordLocator", "DeviceUID", "MilitaryRank",
})  # fmt: skip
_PLACES = frozenset({
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "PatientAddress", "PatientTelephoneNumbers",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "CountryOfResidence", "RegionOfResidence",
    "CurrentPatientLocation", "PatientInstitutionResidence", "PatientBirthPlace",
})  # fmt: skip
#: Free text about a patient or a visit. What a series is called is no such text: the study file may quote it.
_TEXTS = frozenset({
    "PatientComments", "ImageComments", "AdditionalPatientHistory", "StudyDescription", "StudyComments",
    "AdmittingDiagnosesDescription", "RequestedProcedureDescription", "ReasonForStudy", "VisitComments", "Occupation",
    "PerformedProcedureStepDescription", "RequestedProcedureComments", "MedicalAlerts", "Allergies",
})  # fmt: skip
_CLASSES = frozenset({
    "SOPClassUID", "ReferencedSOPClassUID", "TransferSyntaxUID", "MediaStorageSOPClassUID", "ImplementationClassUID",
    "CodingSchemeUID", "ContextUID", "MappingResourceUID", "RelatedGeneralSOPClassUID",
    "ContextGroupExtensionCreatorUID",
})  # fmt: skip
#: Begin of every UID that the standard itself has given.
_STANDARD = "1.2.840.10008."
_CONTOURS = 0x30060039

#: Words that file and folder names are made of everywhere.
_COMMON = frozenset(re.findall(r"\w+", """
    ct mr mri pt pet nm im img image images slice slices series study dcm dicom dicomdir nii gz nrrd mha npz csv json
    rtstruct rtss struct seg mask masks label labels gtv ptv patient patients data dataset case cases train val test
    raw t1 t2 t1w t2w suv tr ts
"""))  # fmt: skip


@dataclass(frozen=True, order=True)
class Term:
    """A value that must not be found, and what it is (`name`, `id`, `date`, `time`, `uid`, `place`, `text`, `path`,
    `file name`)."""

    kind: str
    value: str


def dicom_terms(folder: Path) -> set[Term]:
    """Identifying values of all DICOM files below a folder, and the names of folders and files that are no common ones.

    Only headers are read; files that are no DICOM count by their names. Raises DataError where there is no folder.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder of DICOM files", file=folder, remedy="name it with --input FOLDER")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    terms = path_terms([folder])
    for path in files:
        for part in path.relative_to(folder).parts:
            if _is_particular(part):
                terms.add(Term("file name", part))
    for found in _in_chunks([str(path) for path in files]):
        terms |= found
    return terms


def path_terms(folders: Iterable[Path]) -> set[Term]:
    """The places of folders, as they were given and without links."""
    found = {str(form) for folder in folders for form in (folder.absolute(), folder.resolve())}
    return {Term("path", path) for path in found if len(path) > 1}


def _in_chunks(files: Sequence[str]) -> Iterator[set[Term]]:
    from gtvbench.bench.files.provenance import usable_cores

    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    if len(files) < _MANY or usable_cores() == 1:
        yield from map(header_terms, chunks)
        return
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        yield from pool.map(header_terms, chunks)


def header_terms(files: Iterable[str]) -> set[Term]:
    """Identifying values in the headers of some files."""
    import warnings

    from pydicom import dcmread

    terms: set[Term] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files:
            try:
                terms |= set(_of_dataset(dcmread(path, stop_before_pixels=True)))
            except Exception:  # no DICOM file, or a damaged one: pydicom raises whatever it stumbles on
                continue
    return terms


def _of_dataset(dataset: Any) -> Iterator[Term]:
    for tag in list(dataset.keys()):
        if tag == _CONTOURS:
            continue  # its references are to images, which are read themselves
        try:
            element = dataset[tag]
            vr, value = str(element.VR), element.value
        except Exception:  # one damaged value hides no other
            continue
        if vr == "SQ":
            for item in value:
                yield from _of_dataset(item)
            continue
        many = value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else [value]
        for one in many:
            yield from _of_value(element.keyword, vr, str(one or "").strip("\0 "))


def _of_value(keyword: str, vr: str, text: str) -> Iterator[Term]:
    if not text:
        return
    if vr == "PN":
        yield from names_of(text)
    elif vr == "UI" and keyword not in _CLASSES and not text.startswith(_STANDARD):
        yield Term("uid", text)
    elif vr in ("DA", "DT", "TM"):
        yield from _moments(vr, text)
    elif keyword in _IDS and _long(text):
        yield Term("id", text)
    elif keyword in _PLACES and _long(text):
        yield Term("place", text)
    elif keyword in _TEXTS and len(words_of(text)) > 1 and not _COMMON.issuperset(words_of(text.lower())):
        yield Term("text", text)


def names_of(text: str) -> Iterator[Term]:
    """A person's name as a whole, and every part that has four letters or more."""
    for group in text.split("="):
        parts = [part for part in re.split(r"[\^\s,]+", group) if part]
        if len(parts) > 1:
            yield Term("name", " ".join(parts))
            yield Term("name", " ".join(reversed(parts)))
        for part in parts:
            if sum(c.isalpha() for c in part) >= 4 or any(ord(c) > 0x2E80 for c in part):
                yield Term("name", part)


def _moments(vr: str, text: str) -> Iterator[Term]:
    if vr == "DA":
        digits = re.sub(r"\D", "", text)
        if len(digits) == 8:
            yield Term("date", digits)
    elif vr == "DT":
        if len(text) >= 8 and text[:8].isdigit():
            yield Term("date", text[:8])
            yield Term("text", text)
            yield from _moments("TM", re.split(r"[+-]", text[8:])[0])
    elif re.fullmatch(r"\d{6}(\.\d+)?", text):
        yield Term("time", text)


def _long(text: str) -> bool:
    return sum(c.isalnum() for c in text) >= 4


def _is_particular(name: str) -> bool:
    """Whether a file or folder name can be recognised: a word that not every tree has, or a long number."""
    words = words_of(name)
    letters = [word for word in words if not word.isdigit()]
    unusual = [w for w in letters if w.rstrip("0123456789") not in _COMMON and len(w) >= 4]
    return bool(unusual) or any(word.isdigit() and len(word) >= 6 for word in words)


def words_of(text: str) -> list[str]:
    """Letters and digits that belong together, folded: neither case, accents nor what stands between them counts."""
    from unicodedata import combining, normalize

    plain = text if text.isascii() else "".join(c for c in normalize("NFKD", text) if not combining(c))
    return re.findall(r"[^\W_]+", plain.casefold())
