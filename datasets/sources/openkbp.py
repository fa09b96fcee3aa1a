"""OpenKBP in its original layout: a folder a patient, sparse 128 x 128 x 128 volumes as CSV files.

Layout: `README.md`, `data-description.pdf` (sections 2 and 3) and `provided_code/data_loader.py` of
github.com/ababier/open-kbp; Babier et al., Med Phys 48:5549-5561 (2021). A file lists the voxels that are not zero: an
index into the raveled array (C order), and its value; masks have no values. The array's axes are rows (towards the
patient's back), columns (towards the patient's left) and slices from the head down, which the anatomy tells and the
description does not. CT values are HU + 1024, some beyond 12 bit: the description asks to clip them to 0 - 4095.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.geometry import Grid, Volume
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.assembly.assemble import CaseParts, CropOptions, Part, put_together, stamp
from gtvbench.datasets.assembly.patterns import folders_of
from gtvbench.datasets.base import CaseEntry, Inventory, SourceOptions

Scalar = TypeVar("Scalar", bound=np.generic)

SIDE = 128
HU_OFFSET = 1024
TWELVE_BIT = 4095
#: Far beyond a file with every voxel of the grid, one a line.
LARGEST_FILE = 128 * 2**20
#: No planning CT has voxels outside these sizes (mm).
SPACING_RANGE_MM = (0.1, 20.0)

_AGAIN = "copy the file again from github.com/ababier/open-kbp, or leave the patient out ('exclude')"


class OpenKbpOptions(SourceOptions):
    """Source `openkbp-csv`: OpenKBP's own CSV files (public-data.md)."""

    path: str
    """Folder that holds the patients' folders at any depth (`provided-data`)."""
    patients: str | tuple[str, ...] = "*-pats/pt_*"
    """Pattern of the patients' folders below `path`, or several patterns."""
    structures: dict[str, str] = Field(default_factory=dict)
    """File name (without `.csv`) of each structure, where the study calls it otherwise: `{GTV-T: PTV70}`. A patient
    without the file does not have the structure."""
    exclude: tuple[str, ...] = ()
    """Patients that are left out."""
    crop: CropOptions | None = None
    """A new, random crop of the images."""

    @model_validator(mode="after")
    def _plain_names(self) -> OpenKbpOptions:
        for name in self.structures.values():
            if "/" in name or name.startswith("."):
                raise ValueError(f"'structures' names files without folders, not {name!r}")
        return self


class OpenKbpCsv:
    """OpenKBP's original layout: CT and structures as sparse CSV files; the same cases as its NIfTI layout."""

    Options: ClassVar[type[SourceOptions]] = OpenKbpOptions
    description: ClassVar[str] = "OpenKBP's original CSV files (ct.csv, PTV70.csv ..., voxel_dimensions.csv)"
    version: ClassVar[int] = 1
    synthetic: ClassVar[bool] = False

    def __init__(self, options: OpenKbpOptions, base: Path, structures: Sequence[Structure], seed: int) -> None:
        self._options = options
        self._root = base / Path(options.path).expanduser()
        self._structures = tuple(structures)
        unknown = sorted(set(options.structures) - {s.name for s in structures})
        if unknown:
            raise StudyError(
                f"'structures' of the dataset names {', '.join(unknown)}, which the study does not have",
                remedy=f"the study's structures are {', '.join(s.name for s in structures)}",
            )
        self._found: dict[str, Path] | None = None

    def entries(self) -> list[CaseEntry]:
        """One case a patient's folder; raises DataError where there is none, or none has any of the structures."""
        settings = self._options.model_dump(mode="json", by_alias=True, exclude={"path", "patients", "exclude"})
        names = {s.name: self._file_name(s) for s in self._structures}
        folders = self._folders()
        if not any((folder / name).is_file() for folder in folders.values() for name in names.values()):
            raise DataError(
                f"no patient has any of {', '.join(names.values())}",
                file=self._root,
                remedy="name the study's structures as the files are, or map them with 'structures' of the dataset",
            )
        found = []
        for case, folder in folders.items():
            paths = [folder / name for name in ("ct.csv", "voxel_dimensions.csv", *names.values())]
            identity = {
                "options": settings,
                "names": names,
                "files": dict(stamp(path, folder) for path in paths if path.is_file()),
            }
            found.append(CaseEntry(case, case, identity))
        return found

    def inventory(self) -> list[Inventory]:
        """What each patient has of what is needed: CT, voxel sizes, and any of the structures."""
        names = [self._file_name(structure) for structure in self._structures]
        wanted = {"CT": ["ct.csv"], "voxel sizes": ["voxel_dimensions.csv"], "any structure": names}
        return [
            Inventory(
                case, case, folder, {what: any((folder / n).is_file() for n in files) for what, files in wanted.items()}
            )
            for case, folder in self._folders().items()
        ]

    def modalities(self) -> tuple[str, ...]:
        """CT alone."""
        return ("CT",)

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one patient; raises DataError naming patient, file and remedy."""
        folder = self._folders()[entry.name]
        grid = read_grid(folder / "voxel_dimensions.csv", entry.name)
        ct = folder / "ct.csv"
        parts = {"CT": Part(ct, partial(read_ct, ct, grid, entry.name))}
        case = CaseParts(entry.name, entry.patient, "CT", parts, lambda canonical: self._label(folder, entry.name))
        return put_together(case, self._options.crop)

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """Nothing beyond the generic checks."""
        return []

    def _label(self, folder: Path, case: str) -> tuple[npt.NDArray[np.uint8], list[str]]:
        """Label map of the files there are; where two claim a voxel, the smaller value keeps it."""
        label = np.zeros((SIDE, SIDE, SIDE), np.uint8)
        notes = []
        for structure in self._structures:
            path = folder / self._file_name(structure)
            if not path.is_file():
                continue
            mask = read_mask(path, case)
            taken = int(np.count_nonzero(mask & (label > 0)))
            if taken:
                notes.append(f"{taken} voxels of {structure.name} belong to an earlier structure, which keeps them")
            label[mask & (label == 0)] = structure.value
        return label, notes

    def _file_name(self, structure: Structure) -> str:
        return self._options.structures.get(structure.name, structure.name) + ".csv"

    def _folders(self) -> dict[str, Path]:
        if self._found is not None:
            return self._found
        self._found = folders_of(self._root, self._options.patients, self._options.exclude)
        return self._found


def read_ct(path: Path, grid: Grid, case: str | None = None) -> Volume:
    """CT in HU (z, y, x), int16; voxels that the file does not list are -1024. Raises DataError."""
    index, values = _sparse(path, case)
    if np.isnan(values).any():
        raise DataError("voxels without a value in a CT file", case=case, file=path, remedy=_AGAIN)
    if values.min(initial=0) < 0 or np.any(values != np.rint(values)):
        raise DataError(
            "CT values must be whole numbers from 0 (HU + 1024)",
            case=case,
            file=path,
            remedy="this is not OpenKBP's CT; " + _AGAIN,
        )
    flat = np.full(SIDE**3, -HU_OFFSET, np.int16)
    flat[index] = (np.minimum(values, TWELVE_BIT) - HU_OFFSET).astype(np.int16)
    return Volume(_upright(flat), grid)


def read_mask(path: Path, case: str | None = None) -> npt.NDArray[np.bool_]:
    """Mask (z, y, x) of the voxels that the file lists. Raises DataError."""
    index, values = _sparse(path, case)
    if not np.all(np.isnan(values) | (values == 1)):
        raise DataError("a mask file has values beside its indices", case=case, file=path, remedy=_AGAIN)
    flat = np.zeros(SIDE**3, bool)
    flat[index] = True
    return _upright(flat)


def read_grid(path: Path, case: str | None = None) -> Grid:
    """Grid of a patient: 128 voxels along each axis, sizes from voxel_dimensions.csv (rows, columns, slices; mm)."""
    text = _text(path, case)
    try:
        rows, columns, slices = (float(word) for word in text.replace(",", " ").split())
    except ValueError as error:
        raise DataError("the file does not hold three voxel sizes", case=case, file=path, remedy=_AGAIN) from error
    low, high = SPACING_RANGE_MM
    if not all(low <= size <= high for size in (rows, columns, slices)):
        raise DataError(
            f"voxel sizes outside {low:g} to {high:g} mm: {rows:g}, {columns:g}, {slices:g}",
            case=case,
            file=path,
            remedy=_AGAIN,
        )
    return Grid((SIDE, SIDE, SIDE), (slices, rows, columns))


def _upright(flat: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """From the raveled rows, columns, slices from the head down, to (z, y, x) with z towards the head."""
    return np.ascontiguousarray(flat.reshape(SIDE, SIDE, SIDE).transpose(2, 0, 1)[::-1])


def _sparse(path: Path, case: str | None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Indices and values (NaN where a line has none) of a file."""
    import pandas as pd

    text = _text(path, case)
    header, _, _ = text.partition("\n")
    if header.strip().lower() not in {",data", ""}:
        raise DataError(f"the first line is {header[:40]!r}, not ',data'", case=case, file=path, remedy=_AGAIN)
    if not text.endswith("\n"):
        raise DataError("the file ends in the middle of a line: it is truncated", case=case, file=path, remedy=_AGAIN)
    try:
        table = pd.read_csv(
            io.StringIO(text), header=0, names=["index", "data"], index_col=False, dtype=np.float64, engine="c"
        )
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError("a line is not an index and a value", case=case, file=path, remedy=_AGAIN) from error
    index = table["index"].to_numpy()
    wrong = ~(np.isfinite(index) & (index == np.rint(index)) & (index >= 0) & (index < SIDE**3))
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} indices are no whole numbers from 0 to {SIDE**3 - 1}",
            case=case,
            file=path,
            remedy=_AGAIN,
        )
    whole = index.astype(np.int64)
    if len(np.unique(whole)) < len(whole):
        raise DataError("an index is listed twice", case=case, file=path, remedy=_AGAIN)
    values = table["data"].to_numpy()
    if np.isinf(values).any():
        raise DataError("a value is infinite", case=case, file=path, remedy=_AGAIN)
    return whole, values


def _text(path: Path, case: str | None) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(
                f"the file is larger than {LARGEST_FILE // 2**20} MiB, more than every voxel needs",
                case=case,
                file=path,
                remedy=_AGAIN,
            )
        return path.read_text(encoding="ascii")
    except FileNotFoundError as error:
        raise DataError("the file is missing", case=case, file=path, remedy=_AGAIN) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the file cannot be read as text", case=case, file=path, remedy=_AGAIN) from error
