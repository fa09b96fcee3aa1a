"""A dataset in nnU-Net's raw layout (version 2; the `modality` and reversed `labels` of version 1 are understood too).

`imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, optionally `imagesTs` and `labelsTs`, and `dataset.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.nifti import SUFFIXES
from gtvbench.datasets.assembly.assemble import (
    CaseFiles,
    CropOptions,
    assemble,
    check_modalities,
    check_regex,
    patient_of,
    stamp,
)
from gtvbench.datasets.assembly.masks import MaskEntry, MaskFile, Meaning, meaning_of
from gtvbench.datasets.base import CaseEntry, SourceOptions

#: Channel names (letters and digits only, lower case) that mean a modality.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "CT": ("ct", "planningct", "cect"),
    "PET": ("pet", "pt", "suv", "fdg", "fdgpet", "petsuv"),
    "T1w": ("t1", "t1w", "mrt1", "mrt1w", "mrit1", "mrit1w", "t1mr", "t1mri"),
    "T2w": ("t2", "t2w", "mrt2", "mrt2w", "mrit2", "mrit2w", "t2mr", "t2mri"),
}


class NnunetRawOptions(SourceOptions):
    """Source `nnunet-raw`: a data set in nnU-Net's raw layout."""

    path: str
    """The folder `DatasetXXX_Name`."""
    channels: dict[str, int] | None = None
    """Channel number of each modality, where the names in `dataset.json` do not tell it. Channels that are not named
    are not read."""
    labels: dict[int, str] | None = None
    """What the label values mean, where the names in `dataset.json` are not the study's: `{1: GTV-T}`."""
    ignore: tuple[int, ...] = ()
    """Values that count as background."""
    test: bool = True
    """Read `imagesTs` with `labelsTs` too."""
    reference_modality: str = "CT"
    """Modality that carries the grid."""
    patient_regex: str | None = None
    """Where a patient has several cases: a regular expression whose first group finds the patient in the case's name.
    """
    exclude: tuple[str, ...] = Field(default=())
    """Cases that are left out."""
    crop: CropOptions | None = None
    """A new, random crop of the images."""

    _regex = field_validator("patient_regex")(check_regex)


@dataclass(frozen=True)
class _Layout:
    """What dataset.json says: the channel of each modality, what label values mean, and the files' suffix."""

    channels: dict[str, int]
    meaning: Meaning
    suffix: str


class NnunetRaw:
    """A dataset in nnU-Net's raw layout; modalities from the channel names of dataset.json."""

    Options: ClassVar[type[SourceOptions]] = NnunetRawOptions
    description: ClassVar[str] = "nnU-Net raw dataset (imagesTr, labelsTr, dataset.json; imagesTs with labelsTs)"
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: NnunetRawOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        check_modalities([*(options.channels or {}), options.reference_modality])
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._structures = tuple(structures)
        self._known: _Layout | None = None

    def entries(self) -> list[CaseEntry]:
        """All cases of imagesTr, and of imagesTs where labelsTs has any; sorted by name."""
        layout = self._layout()
        settings = self._options.model_dump(mode="json", by_alias=True, exclude={"path", "exclude"})
        found: dict[str, CaseEntry] = {}
        for case, part in self._cases().items():
            if case in self._options.exclude:
                continue
            channels = (self._image(part, case, number) for number in layout.channels.values())
            present = [path for path in (*channels, self._label(part, case)) if path.is_file()]
            identity = {
                "options": settings,
                "channels": layout.channels,
                "meaning": sorted(layout.meaning.values.items()),
                "files": dict(stamp(path, self._root) for path in present),
            }
            found[case] = CaseEntry(case, patient_of(case, self._options.patient_regex), identity)
        if not found:
            raise DataError(
                f"no case is in imagesTr: no file is named CASE_0000{layout.suffix}",
                file=self._root,
                remedy="check 'path' and the 'file_ending' of dataset.json",
            )
        return [found[name] for name in sorted(found)]

    def modalities(self) -> tuple[str, ...]:
        """Modalities of the channels, as far as any case has them."""
        layout, cases = self._layout(), self._cases()
        return tuple(
            m
            for m in MODALITIES
            if m in layout.channels
            and any(self._image(part, case, layout.channels[m]).is_file() for case, part in cases.items())
        )

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one case; raises DataError naming case, file and remedy."""
        layout, part = self._layout(), self._cases()[entry.name]
        modalities = self.modalities()
        images = {m: self._image(part, entry.name, layout.channels[m]) for m in modalities}
        label = self._label(part, entry.name)
        for what, path in (*images.items(), ("label map", label)):
            if not path.is_file():
                raise DataError(
                    f"the case has no {what}",
                    case=entry.name,
                    file=path,
                    remedy="supply the file, or leave the case out with 'exclude'",
                )
        reference = self._options.reference_modality
        if reference not in images:
            raise DataError(
                f"the dataset has no channel for the reference modality {reference}",
                case=entry.name,
                file=self._root / "dataset.json",
                remedy="name its channel, for example 'channels: {CT: 0}', or set 'reference-modality'",
            )
        files = CaseFiles(entry.name, entry.patient, images, reference, [MaskFile(label, layout.meaning)])
        case = assemble(files, self._structures, self._options.crop)
        absent = [f"no case has the channel of {m}" for m in layout.channels if m not in modalities]
        return replace(case, notes=(*case.notes, *absent))

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Nothing beyond the generic checks."""
        return []

    def _image(self, part: str, case: str, channel: int) -> Path:
        return self._root / f"images{part}" / f"{case}_{channel:04d}{self._layout().suffix}"

    def _label(self, part: str, case: str) -> Path:
        return self._root / f"labels{part}" / f"{case}{self._layout().suffix}"

    def _cases(self) -> dict[str, str]:
        """Name of every case and the part (Tr, Ts) it is in."""
        ending = re.compile(r"(.+)_\d{4}" + re.escape(self._layout().suffix))
        found: dict[str, str] = {}
        for part in ("Tr", "Ts"):
            images, labels = self._root / f"images{part}", self._root / f"labels{part}"
            if part == "Ts" and not (self._options.test and images.is_dir() and labels.is_dir()):
                continue
            if not images.is_dir():
                raise DataError("the dataset has no folder imagesTr", file=images, remedy="check 'path'")
            for path in images.iterdir():
                match = ending.fullmatch(path.name)
                if match is None or path.name.startswith("."):
                    continue
                if found.setdefault(match.group(1), part) != part:
                    raise DataError(
                        "the case is in imagesTr and in imagesTs",
                        case=match.group(1),
                        file=path,
                        remedy="a test case cannot be a training case too; rename or remove one, or set 'test: false'",
                    )
        return found

    def _layout(self) -> _Layout:
        if self._known is None:
            path = self._root / "dataset.json"
            record = _record(path)
            suffix = str(record.get("file_ending", ".nii.gz"))
            if suffix not in SUFFIXES:
                raise DataError(
                    f"files of type {suffix} cannot be read", file=path, remedy=f"use one of {', '.join(SUFFIXES)}"
                )
            channels = self._options.channels or _channels(record, path)
            self._known = _Layout(channels, self._meaning(record, path), suffix)
        return self._known

    def _meaning(self, record: dict[str, Any], path: Path) -> Meaning:
        if self._options.labels is not None:
            entry = MaskEntry(file="labels", labels=self._options.labels, ignore=self._options.ignore)
            return meaning_of(entry, self._structures)
        names = _label_names(record, path)
        study = {_plain(s.name): s.value for s in self._structures}
        values = {value: study[_plain(name)] for value, name in names.items() if _plain(name) in study}
        lost = sorted(s.name for s in self._structures if s.value not in values.values())
        if lost:
            raise DataError(
                f"dataset.json has no label named {', '.join(lost)}; it has {', '.join(names.values()) or 'none'}",
                file=path,
                remedy="name them as the study does, or map the values: 'labels: {1: GTV-T, 2: GTV-N}'",
            )
        return Meaning({**dict.fromkeys(self._options.ignore, 0), **values})


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            "dataset.json not found", file=path, remedy="'path' must be the DatasetXXX_Name folder itself"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"dataset.json cannot be read ({error})", file=path, remedy="repair the file") from error
    if not isinstance(record, dict):
        raise DataError("dataset.json is not an object", file=path, remedy="repair the file")
    return record


def _channels(record: dict[str, Any], path: Path) -> dict[str, int]:
    """Channel of each modality, by name."""
    named = record.get("channel_names", record.get("modality"))
    if not isinstance(named, dict):
        raise DataError("dataset.json has no 'channel_names'", file=path, remedy="name the channels, or set 'channels'")
    found: dict[str, int] = {}
    for number, name in named.items():
        modality = next((m for m, known in SYNONYMS.items() if _plain(str(name)) in known), None)
        if modality is None or not str(number).isdigit():
            continue
        if modality in found:
            raise DataError(
                f"two channels of dataset.json are {modality}: {found[modality]} and {number}",
                file=path,
                remedy=f"choose one with 'channels', for example 'channels: {{{modality}: {number}}}'",
            )
        found[modality] = int(number)
    if not found:
        raise DataError(
            f"no channel name of dataset.json tells a modality: {', '.join(str(n) for n in named.values())}",
            file=path,
            remedy=f"say which is which, for example 'channels: {{CT: 0}}' ({', '.join(MODALITIES)})",
        )
    return found


def _label_names(record: dict[str, Any], path: Path) -> dict[int, str]:
    """Name of each label value above 0; regions (lists of values) are made of others and left aside."""
    labels = record.get("labels")
    if not isinstance(labels, dict):
        raise DataError("dataset.json has no 'labels'", file=path, remedy="name them, or set 'labels'")
    found: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, int):
            found[value] = str(key)
        elif isinstance(value, str) and str(key).isdigit():  # version 1: {"1": "GTV"}
            found[int(key)] = value
    return {value: name for value, name in found.items() if value != 0}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
