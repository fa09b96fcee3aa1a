"""One image file of a series: its plane in space and its values."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from gtvbench.bench.core.errors import DataError
from gtvbench.datasets.dicom.headers.tags import FARTHEST_MM, Header, reason, tag_name

#: How far direction cosines may be from unit length and right angle: they are written with six digits or so.
COSINE_TOLERANCE = 1e-3
#: Modalities whose files must carry RescaleSlope and RescaleIntercept (type 1 in PS3.3 C.8.2.1 and C.8.9.4).
RESCALED = ("CT", "PT")


@dataclass(frozen=True)
class Plane:
    """Where a slice lies: `position` of its first voxel's centre (x, y, z), unit vectors along a row (`row`) and down a
    column (`column`), all in the patient's LPS coordinates in mm; `shape` (y, x); `spacing` (y, x) in mm.
    """

    position: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    shape: tuple[int, int]
    spacing: tuple[float, float]

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector along which slices are stacked."""
        found: npt.NDArray[np.float64] = np.cross(self.row, self.column)
        return found


def plane_of(header: Header) -> Plane:
    """The plane of an image file; raises DataError for multi-frame files and missing or senseless geometry."""
    frames = header.number("NumberOfFrames")
    if (frames is not None and frames > 1) or "SharedFunctionalGroupsSequence" in header.dataset:
        raise header.error(
            f"this is a multi-frame file ({tag_name('NumberOfFrames')} {int(frames or 1)}), which is not supported",
            "export the series as one file a slice ('classic' objects), or convert it with dcm4che's emf2sf",
        )
    cosines = np.asarray(header.required("ImageOrientationPatient", 6), float).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    if np.any(np.abs(lengths - 1) > COSINE_TOLERANCE) or abs(float(cosines[0] @ cosines[1])) > COSINE_TOLERANCE:
        raise header.error(
            f"{tag_name('ImageOrientationPatient')} is not two unit vectors at a right angle",
            "the header is damaged; export the series again",
        )
    row = cosines[0] / lengths[0]
    column = cosines[1] - row * float(row @ cosines[1])
    spacing = header.required("PixelSpacing", 2)
    rows, columns = (int(header.required(keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    position = np.asarray(header.required("ImagePositionPatient", 3), float)
    if float(np.max(np.abs(position))) > FARTHEST_MM:
        raise header.error(
            f"{tag_name('ImagePositionPatient')} is {np.max(np.abs(position)):.3g} mm away",
            "the header is damaged; export the series again",
        )
    if not 0 < min(spacing) <= max(spacing) <= FARTHEST_MM or min(rows, columns) < 1:
        raise header.error(
            f"{tag_name('PixelSpacing')}, {tag_name('Rows')} and {tag_name('Columns')} must be above 0",
            "the header is damaged; export the series again",
        )
    return Plane(position, row, column / np.linalg.norm(column), (rows, columns), (spacing[0], spacing[1]))


def values_of(header: Header, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Rescaled values (y, x) of a slice whose file was read with its pixels: HU, Bq/ml, scanner units.

    Stored values are taken to `BitsStored` (overlays may hide in the bits above), signed as PixelRepresentation says,
    then rescaled in float64 by this slice's own slope and intercept. Raises DataError for what is no plain greyscale,
    for missing or truncated pixel data, and for compressed data that no installed decoder reads.
    """
    slope, intercept = _rescale(header)
    _check_greyscale(header)
    _check_decoder(header)
    if "PixelData" not in header.dataset:
        raise header.error(
            f"{tag_name('PixelData')} is missing", "the file is truncated or was exported without its pixels"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pydicom only warns of pixel data longer than the image
            stored = pixel_array(header.dataset, correct_unused_bits=False)  # corrected below, and checked
    except Exception as error:  # decoders raise whatever they stumble on
        raise header.error(
            f"the pixel data cannot be read ({reason(error)})",
            "the file is truncated or damaged; export or copy it again",
        ) from error
    if stored.shape != shape:
        raise header.error(
            f"the pixel data is {stored.shape}, not {shape} (y, x)", "the file is damaged; export it again"
        )
    values = _to_bits_stored(header, stored) * slope + intercept
    if not np.max(np.abs(values)) < np.finfo(np.float32).max:
        raise header.error(
            f"{tag_name('RescaleSlope')} {slope:g} and {tag_name('RescaleIntercept')} {intercept:g} lead beyond what "
            "numbers can hold",
            "the header is damaged; export the series again",
        )
    found: npt.NDArray[np.float32] = values.astype(np.float32)
    return found


def _rescale(header: Header) -> tuple[float, float]:
    if header.items("ModalityLUTSequence"):
        raise header.error(
            f"values are given by a table ({tag_name('ModalityLUTSequence')}), which is not supported",
            "export the series with a rescale slope and intercept",
        )
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    modality = header.text("Modality")
    if modality in RESCALED and (slope is None or intercept is None):
        missing = "RescaleSlope" if slope is None else "RescaleIntercept"
        raise header.error(
            f"{tag_name(missing)} is missing: stored values cannot be turned into "
            f"{'HU' if modality == 'CT' else 'activity'}",
            "export the series again with its whole header",
        )
    if slope == 0:
        raise header.error(f"{tag_name('RescaleSlope')} is 0", "the header is damaged; export the series again")
    kind = header.text("RescaleType").upper()
    if modality == "CT" and kind not in ("", "HU"):
        raise header.error(
            f"{tag_name('RescaleType')} is {kind}, not HU",
            "choose the series in Hounsfield units (this one may be a dual-energy or electron-density map)",
        )
    return 1.0 if slope is None else slope, intercept or 0.0


def _check_greyscale(header: Header) -> None:
    samples = header.number("SamplesPerPixel")
    photometric = header.text("PhotometricInterpretation").upper()
    if (samples is not None and samples != 1) or photometric != "MONOCHROME2":
        told = f"{photometric or 'missing'}, {int(samples or 1)} sample(s) a pixel"
        raise header.error(
            f"{tag_name('PhotometricInterpretation')} is {told}, not MONOCHROME2 with one",
            "this is a picture (secondary capture, fused or inverted view); choose the original series",
        )
    allocated, stored = header.number("BitsAllocated"), header.number("BitsStored")
    high, signed = header.number("HighBit"), header.number("PixelRepresentation")
    if allocated not in (8, 16, 32) or stored is None or not 1 <= stored <= allocated or signed not in (0, 1):
        raise header.error(
            f"{tag_name('BitsAllocated')} {allocated}, {tag_name('BitsStored')} {stored} and "
            f"{tag_name('PixelRepresentation')} {signed} describe no stored values",
            "the header is damaged; export the series again",
        )
    if high is not None and high != stored - 1:
        raise header.error(
            f"{tag_name('HighBit')} is {high:g}, not {tag_name('BitsStored')} less one ({stored - 1:g})",
            "values that do not begin at bit 0 are not supported; export the series again",
        )


def _check_decoder(header: Header) -> None:
    meta: Any = getattr(header.dataset, "file_meta", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged UID, which is told below
        syntax = UID(str(meta.get("TransferSyntaxUID", "") or "")) if meta is not None else UID("")
    try:
        compressed = syntax.is_compressed
    except ValueError as error:
        raise _undecodable(header, syntax, "is no known transfer syntax") from error
    if not compressed or syntax.is_deflated:
        return
    try:
        ready = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise _undecodable(header, syntax, "is not supported") from error
    if not ready:
        raise _undecodable(header, syntax, "has no decoder installed")


def _undecodable(header: Header, syntax: UID, what: str) -> DataError:
    return header.error(
        f"the pixel data's transfer syntax {syntax.name or 'missing'} {what}",
        "install one (pip install 'pylibjpeg[all]'), or decompress the files with 'dcmdjpeg' (DCMTK) or "
        "'gdcmconv --raw'",
    )


def _to_bits_stored(header: Header, stored: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    allocated, bits = stored.dtype.itemsize * 8, int(header.number("BitsStored") or 0)
    if bits == allocated:
        return stored.astype(np.float64)
    shift = allocated - bits
    kept = (stored << shift) >> shift  # NumPy shifts signed integers arithmetically: the sign is extended
    if not np.array_equal(kept, stored) and not _has_embedded_overlay(header):
        # Signed values are often written with zeros, not copies of the sign, above their bits: that is within the
        # standard (the bits above are unspecified), and any other content is not.
        above = (stored.astype(np.int64) >> bits) & ((1 << shift) - 1)
        if np.any((above != 0) & (above != (1 << shift) - 1)):
            raise header.error(
                f"stored values do not fit {tag_name('BitsStored')} ({bits})",
                "the header or the pixel data is wrong; export the series again",
            )
        if np.any(above != 0) and header.number("PixelRepresentation") == 0:
            raise header.error(
                f"stored values do not fit {tag_name('BitsStored')} ({bits}): are they signed?",
                f"{tag_name('PixelRepresentation')} may be wrong; export the series again",
            )
    return kept.astype(np.float64)


def _has_embedded_overlay(header: Header) -> bool:
    """Whether an overlay lies in unused bits of the pixel data (retired, PS3.3 C.9.2: OverlayBitPosition above 0)."""
    for group in range(0x6000, 0x6020, 2):
        element = header.dataset.get((group, 0x0102))
        if element is not None and element.value:
            return True
    return False
