"""Whether a NIfTI file is whole and its voxels are numbers: what ITK does not tell.

ITK's NIfTI reader returns uninitialised memory, without an error, for a file that ends early, and zeros or
uninitialised memory for voxels that are NaN or infinite (SimpleITK 2.5.7; .nii and .nii.gz alike). So the file
itself is looked at first: once through, in pieces, decompressing where it is gzipped (which checks the checksum too).

Header fields: NIfTI-1 (nifti1.h) and NIfTI-2 (nifti2.h), https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from gtvbench.bench.core.errors import DataError

_PIECE = 1 << 20
_HEADER_BYTES = 540
_GZIP = b"\x1f\x8b"
#: NIfTI's codes of floating-point types that are checked for NaN.
_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class _Header:
    """Where the voxels start, how many values there are, of how many bytes, and their type where they are floats."""

    offset: int
    values: int
    size: int
    floats: np.dtype[np.floating] | None


def check_nifti(path: Path, case: str | None = None) -> None:
    """Raise DataError, naming case and file, where a .nii or .nii.gz file is truncated, damaged or holds NaN.

    Files of other formats are left to their readers, which do notice.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            if packed:
                with gzip.open(plain, "rb") as stream:
                    bad, values = _look_through(stream)  # type: ignore[arg-type]
            else:
                bad, values = _look_through(plain)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OSError) as error:
        raise DataError(
            f"the image cannot be read ({error or type(error).__name__})",
            case=case,
            file=path,
            remedy="the file is truncated, damaged or not an image; export or copy it again",
        ) from error
    if bad:
        raise DataError(
            f"{bad} of {values} voxels are NaN or infinite",
            case=case,
            file=path,
            remedy="replace them (for example by the modality's background value) and write the file again",
        )


def _look_through(stream: IO[bytes]) -> tuple[int, int]:
    """Number of values that are NaN or infinite, and of all values; ValueError where bytes are missing."""
    start = stream.read(_HEADER_BYTES)
    header = _parse(start)
    needed = header.values * header.size
    rest = start[header.offset :]
    if len(start) < header.offset:
        stream.read(header.offset - len(start))
    seen, bad = 0, 0
    while True:
        # Whole values only: what is left of one goes before the next piece.
        usable = min(len(rest), needed - seen) // header.size * header.size
        if header.floats is not None and usable:
            bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(rest[:usable], header.floats))))
        seen += usable
        piece = stream.read(_PIECE)
        if not piece:
            break
        rest = rest[usable:] + piece if seen < needed else b""
    if seen < needed:
        raise ValueError(f"the file ends early: {seen} of {needed} bytes of voxels")
    return bad, header.values


def _parse(start: bytes) -> _Header:
    for order in "<>":
        if len(start) >= 348 and struct.unpack_from(f"{order}i", start)[0] == 348:
            count, *sizes = struct.unpack_from(f"{order}8h", start, 40)
            kind, bits = struct.unpack_from(f"{order}2h", start, 70)
            offset = int(struct.unpack_from(f"{order}f", start, 108)[0])
            least = 348
        elif len(start) >= 540 and struct.unpack_from(f"{order}i", start)[0] == 540:
            kind, bits = struct.unpack_from(f"{order}2h", start, 12)
            count, *sizes = struct.unpack_from(f"{order}8q", start, 16)
            offset = int(struct.unpack_from(f"{order}q", start, 168)[0])
            least = 540
        else:
            continue
        if not 1 <= count <= 7 or min(sizes[:count]) < 1 or bits < 1:
            raise ValueError("its NIfTI header makes no sense")
        floats = np.dtype(f"{order}{_FLOATS[kind]}") if kind in _FLOATS else None
        return _Header(max(offset, least), math.prod(sizes[:count]), max(1, bits // 8), floats)
    raise ValueError("it has no NIfTI header")
