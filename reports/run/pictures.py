"""Pictures and contours that the scoring step left in the run folder, read when a page needs them, without volumes."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtvbench.bench.files.store import PICTURES_SCHEMA, Store
from gtvbench.reports.run.load import FinishedRun

#: Patient axes of a grid's world coordinates (LPS), towards and away.
_AXES = (("L", "R"), ("P", "A"), ("H", "F"))
#: From this share of a direction on, its letter is shown: an axis tilted by more than 17 degrees gets two.
_SHARE = 0.3


@dataclass(frozen=True)
class Contours:
    """One prediction in the frame of its case's pictures.

    `paths`: SVG path data by structure and slice; `dsc`: 2D DSC by structure for every slice of the volume, None where
    neither mask has a voxel; `outside`: voxels outside the frame by structure. With a `status` there is no mask.
    """

    status: str | None
    paths: Mapping[str, Mapping[int, str]]
    dsc: Mapping[str, list[float | None]]
    outside: Mapping[str, int]


@dataclass(frozen=True)
class CasePictures:
    """The pictures of one case and what belongs to them; `record` as bench/pictures.py writes it."""

    path: Path
    record: Mapping[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that have pictures."""
        return tuple(self.record["modalities"])

    @property
    def slices(self) -> range:
        """Slices shown, as indices of the volume."""
        first, stop = self.record["crop"][0]
        return range(first, stop)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame in voxels."""
        _, (top, bottom), (left, right) = self.record["crop"]
        return bottom - top, right - left

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing (z, y, x) in mm."""
        z, y, x = self.record["grid"]["spacing"]
        return float(z), float(y), float(x)

    @property
    def hidden_mm(self) -> float | None:
        """Depth in mm to which the surface of the body is blanked, None where all is shown."""
        found = self.record.get("hidden_mm")
        return float(found) if isinstance(found, int | float) else None

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL."""
        z, y, x = self.spacing
        return z * y * x / 1000.0

    def position(self, z: int) -> float:
        """Position of a slice along the slices' normal in mm, from the origin of the patient's coordinates."""
        grid = self.record["grid"]
        normal = grid["direction"][2::3]
        return float(sum(o * n for o, n in zip(grid["origin"], normal, strict=True))) + z * self.spacing[0]

    @property
    def sides(self) -> tuple[str, str, str, str]:
        """Letters of the patient's sides at the left, right, top and bottom of the picture."""
        across, along = (self.record["grid"]["direction"][k::3] for k in (0, 1))
        return _letters(across, -1), _letters(across, 1), _letters(along, -1), _letters(along, 1)

    def paths(self, what: str, structure: str) -> dict[int, str]:
        """SVG path data by slice: of the `reference`, or of its `prompts`."""
        return {int(z): str(path) for z, path in (self.record[what].get(structure) or {}).items()}

    def voxels(self, structure: str) -> list[int]:
        """Voxels of the reference in every slice of the volume."""
        counts = self.record["voxels"].get(structure)
        return [int(n) for n in counts] if counts else [0] * int(self.record["grid"]["shape"][0])

    def picture(self, modality: str, z: int) -> bytes:
        """The picture of a slice, WebP."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(f"{modality}/{z}.webp")

    def all_pictures(self, slices: Sequence[int]) -> dict[str, list[bytes]]:
        """The pictures of the slices in every modality, WebP."""
        with zipfile.ZipFile(self.path) as archive:
            return {m: [archive.read(f"{m}/{z}.webp") for z in slices] for m in self.modalities}


#: What reading a damaged file, or one of another form, raises.
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, zipfile.BadZipFile, zlib.error,
    RuntimeError,  # zipfile's, where a damaged entry claims to be encrypted or compressed in an unknown way
)  # fmt: skip


class Pictures:
    """What there is to show of a run's cases; reads lazily, keeps nothing."""

    def __init__(self, run: FinishedRun) -> None:
        self._origins = run.origins
        self._stores = [Store(folder) for folder in dict.fromkeys(folder for folder, _ in run.origins.values())]

    def case(self, case: str) -> CasePictures | None:
        """Pictures of a case; None where the run has none (made by an older version, or left out), or not whole."""
        for store in self._stores:
            path = store.pictures(case)
            try:
                with zipfile.ZipFile(path) as archive:
                    record = json.loads(archive.read("record.json"))
                    found = CasePictures(path, record)
                    whole = record["schema"] == PICTURES_SCHEMA and _whole(found, archive)
            except _DAMAGED:
                continue
            if whole:
                return found
        return None

    def checkerboard(self, case: str, modality: str) -> bytes | None:
        """Picture of a registration (WebP); None where the run has none, or not whole."""
        for store in self._stores:
            try:
                found = store.checkerboard(case, modality).read_bytes()
            except OSError:
                continue
            # RIFF: the length of what follows stands in the header.
            if (
                found[:4] == b"RIFF"
                and found[8:12] == b"WEBP"
                and int.from_bytes(found[4:8], "little") + 8 == len(found)
            ):
                return found
        return None

    def contours(self, arm: str, case: CasePictures) -> Contours | None:
        """Contours of an arm on a case; None where there are none, or they were made for another frame."""
        if arm not in self._origins:
            return None
        folder, name = self._origins[arm]
        try:
            record = json.loads(Store(folder).contours(name, str(case.record["case"])).read_text())
            if record["schema"] != PICTURES_SCHEMA or record["crop"] != case.record["crop"]:
                return None
            parts: dict[str, Any] = record["structures"]
            slices = int(case.record["grid"]["shape"][0])
            if any(len(part["dsc"]) != slices for part in parts.values()):
                return None
            return Contours(
                record["status"],
                {s: {int(z): str(path) for z, path in part["paths"].items()} for s, part in parts.items()},
                {s: part["dsc"] for s, part in parts.items()},
                {s: int(part["outside"]) for s, part in parts.items()},
            )
        except _DAMAGED:
            return None


def _whole(case: CasePictures, archive: zipfile.ZipFile) -> bool:
    """Whether every picture is there and unbroken; raises one of _DAMAGED where the record lacks what is read."""
    names = set(archive.namelist())
    slices = int(case.record["grid"]["shape"][0])
    counts = all(len(case.voxels(structure)) == slices for structure in case.record["voxels"])
    every = all(f"{modality}/{z}.webp" in names for modality in case.modalities for z in case.slices)
    for what in ("reference", "prompts"):
        for structure in case.record[what]:
            case.paths(what, structure)
    _ = case.size, case.spacing, case.sides, case.voxel_ml, case.position(case.slices.start), case.record["case"]
    return counts and every and archive.testzip() is None


def _letters(direction: list[float], sign: int) -> str:
    """Where an image axis points in the patient, largest share first, for example "L" or "LP"."""
    shares = sorted(((abs(value), axis) for axis, value in enumerate(direction)), reverse=True)
    return "".join(_AXES[axis][0 if sign * direction[axis] > 0 else 1] for share, axis in shares if share >= _SHARE)
