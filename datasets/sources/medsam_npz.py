"""MedSAM's npz files: windowed 8-bit images, label maps and spacing, one file an image.

Layout: `pre_CT_MR.py` of github.com/bowang-lab/MedSAM (branches main and LiteMedSAM) and the LiteMedSAM README on the
CVPR 2024 challenge. `imgs` (D, H, W) uint8, `gts` (D, H, W) uint8, `spacing` (x, y, z) in mm, as SimpleITK gives it;
a 2D image is (H, W, 3) or (H, W), without spacing. The name begins with the modality (`CT_Abd_...`, `MR_...`,
`3DBox_CT_...`). Validation files have `boxes` in the place of `gts` and cannot be scored.

What the files lost comes back as an approximation, stated in a note: a CT was windowed (level 40, width 400 HU by
default) to 0 - 255, so grey values are put back on that window, and the study's own window gives the same 0 - 255
again. PET is put back on SUV 0 - 6 likewise, though its scale is not known; MR stays as it is.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator, model_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import CT_LEVEL_HU, CT_WIDTH_HU, MODALITIES, MR, PET_RANGE_SUV
from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.assembly.assemble import CaseParts, Part, check_regex, patient_of, put_together, stamp
from gtvbench.datasets.assembly.masks import MaskEntry, meaning_of, translated
from gtvbench.datasets.assembly.patterns import listed
from gtvbench.datasets.base import CaseEntry, SourceOptions

#: A volume of 1024 x 1024 x 1024 voxels; an array that claims more is refused before it is unpacked.
LARGEST_BYTES = 2**30
SPACING_RANGE_MM = (0.01, 50.0)
SUFFIX = ".npz"

_AGAIN = "pack the file again (imgs, gts, spacing), or leave the case out ('exclude')"


class MedsamNpzOptions(SourceOptions):
    """Source `medsam-npz`: files in MedSAM's format (public-data.md). Give `labels` or `structure`, or neither: then
    the values are those of the study."""

    path: str
    """Folder of the files."""
    files: str | tuple[str, ...] = "*" + SUFFIX
    """Pattern of the file names below `path`, or several patterns."""
    modality: str | None = None
    """What all images are. Without this key it is read from each name, which tells CT and PET, but not which MR it is.
    """
    labels: dict[int, str] | None = None
    """What the label values mean: `{1: GTV-T}`."""
    structure: str | None = None
    """Every value above 0 is this structure (MedSAM numbers tumours one by one)."""
    ignore: tuple[int, ...] = ()
    """With `labels`: values that count as background."""
    window: tuple[float, float] = (CT_LEVEL_HU, CT_WIDTH_HU)
    """Level and width in HU that the CT was cut to."""
    spacing_order: Literal["xyz", "zyx"] = "xyz"
    """Order of the numbers in `spacing`; SimpleITK gives `xyz`."""
    patient_regex: str | None = None
    """Where a patient has several cases: a regular expression whose first group finds the patient in the case's name.
    """
    exclude: tuple[str, ...] = ()
    """Cases that are left out."""

    _regex = field_validator("patient_regex")(check_regex)

    @field_validator("modality")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in MODALITIES:
            raise ValueError(f"'modality' is one of {', '.join(MODALITIES)}")
        return name

    @field_validator("window")
    @classmethod
    def _has_width(cls, window: tuple[float, float]) -> tuple[float, float]:
        if not window[1] > 0:
            raise ValueError("'window' is [level, width] with a width above 0")
        return window

    @model_validator(mode="after")
    def _one_meaning(self) -> MedsamNpzOptions:
        self.mask_entry()
        return self

    def mask_entry(self) -> MaskEntry:
        """What the values of `gts` mean."""
        return MaskEntry(file="gts", labels=self.labels, structure=self.structure, ignore=self.ignore)


class MedsamNpz:
    """MedSAM's npz files: grey values of 0 to 255, so CT and PET are approximations; one modality."""

    Options: ClassVar[type[SourceOptions]] = MedsamNpzOptions
    description: ClassVar[str] = "MedSAM's npz files (imgs, gts, spacing): 8-bit images, one modality"
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: MedsamNpzOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._structures = tuple(structures)
        self._meaning = meaning_of(options.mask_entry(), structures)
        self._found: dict[str, Path] | None = None

    def entries(self) -> list[CaseEntry]:
        """One case a file; raises DataError where there is none."""
        settings = self._options.model_dump(mode="json", by_alias=True, exclude={"path", "files", "exclude"})
        return [
            CaseEntry(
                case,
                patient_of(case, self._options.patient_regex),
                {
                    "options": settings,
                    "files": dict([stamp(path, self._root)]),
                },
            )
            for case, path in self._files().items()
        ]

    def modalities(self) -> tuple[str, ...]:
        """The one modality of the files; raises DataError where names tell several or none."""
        return (self._modality(),)

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one file; raises DataError naming case, file and remedy."""
        path, modality = self._files()[entry.name], self._modality()
        arrays = read_arrays(path, ("imgs", "gts", "spacing"), entry.name)
        grey, label, grid = self._volumes(arrays, path, entry.name)
        volume = Volume(self._restored(grey, modality), grid)
        values = translated(label, self._meaning, case=entry.name, file=path)
        part = Part(path, lambda: volume)
        return put_together(
            CaseParts(entry.name, entry.patient, modality, {modality: part}, lambda _: (values, self._notes(modality)))
        )

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Whether every slice has a target, as MedSAM's script leaves volumes: then slices tell where it is."""
        if case.label.shape[0] > 1 and all(bool(plane.any()) for plane in case.label):
            return [
                "every slice has a target (MedSAM's script keeps no other, and what it leaves need not be adjacent): "
                "no unprompted method's localisation along z can be believed, nor distances across slices"
            ]
        return []

    def _volumes(
        self, arrays: dict[str, npt.NDArray[Any]], path: Path, case: str
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], Grid]:
        """Grey values and label map (z, y, x) and their grid."""
        if "imgs" not in arrays or "gts" not in arrays:
            boxes = " (a validation file has boxes in its place and cannot be scored)" if "imgs" in arrays else ""
            missing = [name for name in ("imgs", "gts") if name not in arrays]
            raise DataError(f"the file has no {' and no '.join(missing)}{boxes}", case=case, file=path, remedy=_AGAIN)
        images, label = arrays["imgs"], arrays["gts"]
        if images.ndim == 3 and images.shape[-1] == 3 and label.ndim == 2:
            if not (images == images[..., :1]).all():
                raise DataError(
                    "the image has colours: it is a photograph, not a CT, PET or MR slice",
                    case=case,
                    file=path,
                    remedy="leave it out: narrow 'files', or 'exclude'",
                )
            images = images[..., 0]
        if images.ndim == 2 and label.ndim == 2:
            images, label = images[None], label[None]
        if images.ndim != 3 or images.shape != label.shape or not images.size:
            raise DataError(
                f"imgs has shape {images.shape} and gts {label.shape}; both must be (D, H, W), or (H, W, 3) and (H, W)",
                case=case,
                file=path,
                remedy=_AGAIN,
            )
        if not np.isfinite(images).all() or images.min() < 0 or images.max() > 255:
            raise DataError("imgs has values beyond 0 to 255", case=case, file=path, remedy=_AGAIN)
        return images, label, Grid(images.shape, self._spacing(arrays.get("spacing"), images.shape[0], path, case))

    def _spacing(
        self, spacing: npt.NDArray[Any] | None, slices: int, path: Path, case: str
    ) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm; 1 mm for a single slice, which has none."""
        if spacing is None and slices == 1:
            return 1.0, 1.0, 1.0
        sizes = [] if spacing is None else [float(value) for value in np.ravel(spacing)]
        low, high = SPACING_RANGE_MM
        if len(sizes) != 3 or not all(low <= size <= high for size in sizes):
            raise DataError(
                f"spacing is {'missing' if spacing is None else sizes}, not three sizes of {low:g} to {high:g} mm",
                case=case,
                file=path,
                remedy="write the voxel size (x, y, z) in mm as 'spacing'",
            )
        first, second, third = sizes if self._options.spacing_order == "zyx" else sizes[::-1]
        return first, second, third

    def _restored(self, grey: npt.NDArray[np.uint8], modality: str) -> npt.NDArray[np.float32]:
        low, high = 0.0, 255.0
        if modality == "CT":
            level, width = self._options.window
            low, high = level - width / 2, level + width / 2
        elif modality == "PET":
            low, high = PET_RANGE_SUV
        return grey.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)

    def _notes(self, modality: str) -> list[str]:
        level, width = self._options.window
        told = {
            "CT": f"CT values are 8-bit grey values put back on a window of level {level:g} and width {width:g} HU; "
            "what lay beyond it is lost, and nnU-Net sees less than it would of the original",
            "PET": f"PET values are 8-bit grey values put on SUV 0 to {PET_RANGE_SUV[1]:g}; they are no measured SUV",
        }
        grey = "MR values are 8-bit grey values, clipped at percentiles by MedSAM's script before ours"
        return [told.get(modality, grey)]

    def _modality(self) -> str:
        if self._options.modality is not None:
            return self._options.modality
        told = {case: modality_of(case) for case in self._files()}
        several = sorted({str(m) for m in told.values() if m is not None})
        unknown = [case for case, modality in told.items() if modality is None]
        if unknown:
            raise DataError(
                f"the names of {len(unknown)} files do not tell the modality: {listed(unknown)}",
                file=self._root,
                remedy=f"set 'modality' ({', '.join(MODALITIES)}); names tell CT, PET, and MR with T1 or T2 in them",
            )
        if len(several) > 1:
            raise DataError(
                f"the files are of several modalities: {', '.join(several)}",
                file=self._root,
                remedy="a file has one modality, and so has a study of them; choose one with 'files', such as CT_*.npz",
            )
        return several[0]

    def _files(self) -> dict[str, Path]:
        if self._found is not None:
            return self._found
        if not self._root.is_dir():
            raise DataError("the folder of the files does not exist", file=self._root, remedy="check 'path'")
        wanted = self._options.files
        patterns = (wanted,) if isinstance(wanted, str) else wanted
        paths = sorted({p for pattern in patterns for p in self._root.glob(pattern) if p.suffix == SUFFIX})
        found: dict[str, Path] = {}
        for path in paths:
            if path.stem in found:
                raise DataError("two files have this name", case=path.stem, file=path, remedy="narrow 'files'")
            found[path.stem] = path
        unknown = sorted(set(self._options.exclude) - set(found))
        if unknown:
            raise StudyError(f"'exclude' names files that are not there: {listed(unknown)}", file=self._root)
        found = {case: path for case, path in found.items() if case not in self._options.exclude}
        if not found:
            raise DataError(
                f"no file matches 'files' ({', '.join(patterns)})",
                file=self._root,
                remedy="'path' is the folder of the npz files; patterns such as '**/*.npz' look deeper",
            )
        self._found = found
        return found


def modality_of(name: str) -> str | None:
    """Modality that a file's name tells by its parts (between `_` and `-`); None where none or an MR of any kind."""
    parts = [part.lower() for part in re.split(r"[_\-. ]", name)]
    if "ct" in parts or "cect" in parts:
        return "CT"
    if "pet" in parts or "pt" in parts:
        return "PET"
    for modality in MR:
        if any(part in {modality.lower(), modality[:2].lower()} for part in parts):
            return modality
    return None


def read_arrays(path: Path, names: Sequence[str], case: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """The named arrays of an npz file that it has; others are not touched.

    Nothing is unpickled, and what an array claims to unpack to is bounded before it is. Raises DataError.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            for name in names:
                info = members.get(f"{name}.npy")
                if info is None:
                    continue
                with archive.open(info) as stream:
                    found[name] = _array(stream, info.file_size, name, path, case)
    except FileNotFoundError as error:
        raise DataError("the file is missing", case=case, file=path, remedy=_AGAIN) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"the file cannot be read ({type(error).__name__})",
            case=case,
            file=path,
            remedy="it is truncated, damaged or no npz file; " + _AGAIN,
        ) from error
    return found


def _array(stream: Any, size: int, name: str, path: Path, case: str | None) -> npt.NDArray[Any]:
    shape, dtype = _header(stream)
    if dtype.hasobject:
        raise DataError(
            f"{name} holds Python objects (a pickle), which are never loaded",
            case=case,
            file=path,
            remedy="save it as an array of numbers",
        )
    if dtype.kind not in "buif":
        raise DataError(f"{name} holds {dtype}, not numbers", case=case, file=path, remedy=_AGAIN)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > LARGEST_BYTES or size > LARGEST_BYTES:
        raise DataError(
            f"{name} claims {max(claimed, size) / 2**20:.0f} MiB, more than the {LARGEST_BYTES // 2**20} that are read",
            case=case,
            file=path,
            remedy="store images as uint8, cropped to the patient",
        )
    stream.seek(0)
    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
