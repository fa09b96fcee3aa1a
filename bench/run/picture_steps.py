"""Pictures and contours for the report's case viewer, made while the volumes are at hand.

A case gets the slices around its target, one picture for each modality and slice in the display range of fusion.py, and
an arm and case the contours of its prediction along voxel edges. No file holds a path, a date or a name but the case's,
and none shows the surface of a real patient's body unless the study file wants it (faces.py).
"""

from __future__ import annotations

import io
import json
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.events import Failed
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files.store import PICTURES_SCHEMA, Store, step_key, write_atomically
from gtvbench.bench.pictures.checkerboards import checkerboard
from gtvbench.bench.pictures.contours import box_outline, outline, slice_dsc
from gtvbench.bench.pictures.faces import HIDDEN_GREY, HIDING_VERSION, SHELL_MM, Mask, hidden_by_modality, hidden_voxels
from gtvbench.bench.prepare.cases import Prepared
from gtvbench.bench.score.cases import label_boxes

PICTURES_VERSION = 1
CONTOURS_VERSION = 1
CHECKERBOARDS_VERSION = 1

#: Shown around the target, in mm: within the slice, and above and below it.
MARGIN_MM, MARGIN_SLICES_MM = 40.0, 10.0
#: A picture is made smaller only where its longer side has more pixels than this.
LONGEST_SIDE = 320
#: WebP quality: on real CT an error of 2 grey levels of 255 (root mean square), at half the bytes of a JPEG as good.
QUALITY = 88

Label = npt.NDArray[np.integer[Any]]
_Range = tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """The part of a grid that is shown: half-open ranges of voxels."""

    z: _Range
    y: _Range
    x: _Range

    @property
    def corner(self) -> tuple[int, int]:
        """First row and column."""
        return self.y[0], self.x[0]

    def size(self) -> tuple[int, int]:
        """Height and width of a picture in pixels."""
        height, width = self.y[1] - self.y[0], self.x[1] - self.x[0]
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def as_list(self) -> list[list[int]]:
        """JSON-serialisable form; `Crop.from_list` reads it."""
        return [list(self.z), list(self.y), list(self.x)]

    @classmethod
    def from_list(cls, ranges: list[list[int]]) -> Crop:
        """Inverse of `as_list`."""
        z, y, x = ((int(first), int(stop)) for first, stop in ranges)
        return cls(z, y, x)


def crop_around(reference: Label, prompts: Prompts, structures: Sequence[Structure], grid: Grid) -> Crop:
    """Around the reference (z, y, x) and the prompts of a case, with margins in mm, clipped to the grid."""
    boxes = list(label_boxes(reference, [s.value for s in structures]).values())
    boxes += [((b.slice, b.slice + 1), (b.y0, b.y1), (b.x0, b.x1)) for b in prompts.boxes]
    ranges = []
    for axis, margin_mm in enumerate((MARGIN_SLICES_MM, MARGIN_MM, MARGIN_MM)):
        margin = round(margin_mm / grid.spacing[axis])
        first, stop = min(box[axis][0] for box in boxes), max(box[axis][1] for box in boxes)
        ranges.append((max(0, first - margin), min(grid.shape[axis], stop + margin)))
    z, y, x = ranges
    return Crop(z, y, x)


def picture(plane: npt.NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """A plane of grey levels (y, x) as WebP of `size` (height, width) pixels."""
    image = Image.fromarray(np.ascontiguousarray(plane))
    if plane.shape != size:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()


def paths_of(label: Label, value: int, crop: Crop) -> dict[str, str]:
    """Outlines of one structure of a label map (z, y, x) by slice, as far as the crop shows them.

    Coordinates are voxels from the crop's corner. One voxel more than is shown is drawn on each side, so that a mask
    that goes on beyond the crop is not closed by a line along the picture's edge.
    """
    y0, x0 = max(0, crop.y[0] - 1), max(0, crop.x[0] - 1)
    found = {}
    for z in range(*crop.z):
        mask = np.asarray(label[z, y0 : crop.y[1] + 1, x0 : crop.x[1] + 1]) == value
        if mask.any():
            found[str(z)] = outline(mask, (y0 - crop.y[0], x0 - crop.x[0]))
    return found


def case_record(
    grid: Grid,
    crop: Crop,
    reference: Label,
    prompts: Prompts,
    structures: Sequence[Structure],
    modalities: Sequence[str],
) -> dict[str, Any]:
    """All of a case but its pictures: frame, contours of the reference, its voxels in every slice, prompt boxes."""
    boxes: dict[str, dict[str, str]] = {s.name: {} for s in structures}
    for structure in structures:
        for z in prompts.slices_of(structure.value):
            drawn = [box_outline(p.box, crop.corner) for p in prompts.in_slice(z) if p.structure == structure.value]
            boxes[structure.name][str(z)] = "".join(drawn)
    return {
        "schema": PICTURES_SCHEMA,
        "case": prompts.case,
        "grid": grid.as_dict(),
        "crop": crop.as_list(),
        "modalities": list(modalities),
        "reference": {s.name: paths_of(reference, s.value, crop) for s in structures},
        "voxels": {s.name: [int(np.count_nonzero(plane == s.value)) for plane in reference] for s in structures},
        "prompts": boxes,
    }


def contour_record(
    prediction: Label | None, reference: Label, crop: Crop, structures: Sequence[Structure], status: str | None
) -> dict[str, Any]:
    """Contours of a prediction, its 2D DSC in every slice of the volume, and its voxels outside the crop.

    Label maps are (z, y, x). Without a prediction there is the `status` alone.
    """
    record: dict[str, Any] = {"schema": PICTURES_SCHEMA, "crop": crop.as_list(), "status": status, "structures": {}}
    if prediction is None:
        return record
    for structure in structures:
        dsc, total = [], 0
        for mine, theirs in zip(prediction, reference, strict=True):
            mask = mine == structure.value
            score = slice_dsc(mask, np.asarray(theirs) == structure.value)
            dsc.append(None if score is None else round(score, 4))
            total += int(np.count_nonzero(mask))
        inside = prediction[slice(*crop.z), slice(*crop.y), slice(*crop.x)]
        record["structures"][structure.name] = {
            "paths": paths_of(prediction, structure.value, crop),
            "dsc": dsc,
            "outside": total - int(np.count_nonzero(inside == structure.value)),
        }
    return record


def pack(record: dict[str, Any], crop: Crop, images: Images, hidden: Callable[[str], Mask] | None = None) -> bytes:
    """A zip archive of record.json and <modality>/<slice>.webp; the same content gives the same bytes.

    Voxels (z, y, x) that are `hidden` in a modality are grey before a plane is made smaller or compressed.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        # Members made from a ZipInfo carry no time of their own.
        archive.writestr(zipfile.ZipInfo("record.json"), _json(record), zipfile.ZIP_DEFLATED)
        for modality in images.modalities:
            volume, mask = images.scaled(modality), None if hidden is None else hidden(modality)
            for z in range(*crop.z):
                plane = volume[z, slice(*crop.y), slice(*crop.x)]
                if mask is not None:
                    plane = np.where(mask[z, slice(*crop.y), slice(*crop.x)], np.uint8(HIDDEN_GREY), plane)
                archive.writestr(zipfile.ZipInfo(f"{modality}/{z}.webp"), picture(plane, crop.size()))
    return stream.getvalue()


@dataclass
class PictureSteps:
    """The steps that make pictures and contours in one run folder.

    They cost no score: what goes wrong is told through `failed` and leaves the report
    without that picture. Only a folder that cannot be written raises, StoreError.
    """

    store: Store
    structures: Sequence[Structure]
    failed: Callable[[Failed], None]
    hide_faces: bool = False
    #: Key of every step that is done, by its name: what the report depends on.
    keys: dict[str, str] = field(default_factory=dict)
    computed: int = 0

    def of_case(self, prepared: Prepared, prompts: Prompts) -> None:
        """Pictures of one case, where they are not there yet."""
        case = prepared.case
        hiding = {"hiding": HIDING_VERSION} if self.hide_faces else {}
        key = step_key(
            "pictures", PICTURES_VERSION, images=prepared.images_digest, reference=prepared.reference_digest,
            prompts=prompts.digest, structures={s.name: s.value for s in self.structures}, **hiding,
        )  # fmt: skip

        def make() -> None:
            reference = np.load(self.store.reference(case), mmap_mode="r")
            grid = Grid.from_dict(prepared.meta["grid"])
            crop = crop_around(reference, prompts, self.structures, grid)
            images = Images(case, self.store.case_folder(case))
            record = case_record(grid, crop, reference, prompts, self.structures, images.modalities)
            hidden = None
            if self.hide_faces:
                record["hidden_mm"] = SHELL_MM
                hidden = hidden_by_modality({m: images.raw(m) for m in images.modalities}, grid)
            path = self.store.pictures(case)
            write_atomically(path, pack(record, crop, images, hidden))
            self.store.finish(f"pictures/{case}", key, [path])

        self._step(f"pictures/{case}", key, None, case, make, self.store.pictures(case))

    def of_registrations(self, prepared: Prepared) -> None:
        """Checkerboards of what was registered in one case, if they are not there yet; older ones are deleted."""
        case, records = prepared.case, prepared.meta.get("registration") or {}
        images, store = Images(case, self.store.case_folder(case)), self.store
        surfaces: dict[str, Mask] = {}  # found once a case, and only where a picture is made

        def make(modality: str, reference: str, step: str, key: str) -> None:
            if self.hide_faces and reference not in surfaces:
                surfaces[reference] = hidden_voxels({reference: images.raw(reference)}, images.grid)
            kept, path = store.before_registration(case, modality), store.checkerboard(case, modality)
            write_atomically(path, checkerboard(kept, modality, reference, images, surfaces.get(reference)))
            store.finish(step, key, [path])

        for modality in images.modalities:
            step, path = f"checkerboards/{case}/{modality}", store.checkerboard(case, modality)
            facts = records.get(modality) or {}
            if facts.get("status") != "registered":
                if path.is_file():
                    store.forget(step)
                    path.unlink()
                continue
            key = step_key(
                "checkerboard", CHECKERBOARDS_VERSION, images=prepared.images_digest, facts=facts,
                reference=prepared.reference_digest, hiding=HIDING_VERSION if self.hide_faces else None,
            )  # fmt: skip
            self._step(step, key, None, case, partial(make, modality, facts["reference"], step, key), path)

    def of_arm(
        self, arm: str, case: str, predicted: str | None, status: str | None, read: Callable[[], Label | None]
    ) -> None:
        """Contours of one arm and case. `predicted` identifies the prediction; `read` is called where it is needed."""
        case_key = self.keys.get(f"pictures/{case}")
        if case_key is None:
            return
        key = contours_key(case_key, predicted, status)

        def make() -> None:
            draw_contours(self.store, arm, case, key, self.structures, read(), status)

        self._step(f"contours/{arm}/{case}", key, arm, case, make, self.store.contours(arm, case))

    def _step(self, step: str, key: str, arm: str | None, case: str, make: Callable[[], None], path: Path) -> None:
        if self.store.record(step, key) is None:
            self.store.forget(step)
            try:
                make()
            except StoreError:
                raise
            except Exception as error:
                self._lost(arm, case, error, path)
                return
            self.computed += 1
        self.keys[step] = key

    def _lost(self, arm: str | None, case: str, error: Exception, path: Path) -> None:
        """Tell of what could not be made, and take away an older one: it would show something else."""
        path.unlink(missing_ok=True)
        message, trace = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        self.failed(Failed("pictures", case, "no_pictures", message, trace, arm))


def contours_key(pictures: str, predicted: str | None, status: str | None) -> str:
    """Content key of the contours of one arm and case; `pictures` is that of the case's pictures."""
    return step_key("contours", CONTOURS_VERSION, pictures=pictures, predicted=predicted, status=status)


def draw_contours(
    store: Store,
    arm: str,
    case: str,
    key: str,
    structures: Sequence[Structure],
    prediction: Label | None,
    status: str | None,
) -> None:
    """Publish the contours of one arm and case, whose pictures are there."""
    path, step = store.contours(arm, case), f"contours/{arm}/{case}"
    reference = np.load(store.reference(case), mmap_mode="r")
    with zipfile.ZipFile(store.pictures(case)) as archive:
        crop = Crop.from_list(json.loads(archive.read("record.json"))["crop"])
    store.forget(step)
    write_atomically(path, _json(contour_record(prediction, reference, crop, structures, status)))
    store.finish(step, key, [path])


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"
