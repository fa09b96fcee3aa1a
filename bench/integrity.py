"""Whether an image file is whole, where the reader would not tell.

ITK's NIfTI reader fills what a truncated .nii or .nii.gz lacks with zeros and reports nothing (seen with SimpleITK
2.5): a mask whose copy broke off reads as a smaller mask. So the bytes are counted before a file is believed.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from gtvbench.bench.core.errors import DataError

_CHUNK = 1 << 20
_HEADER_BYTES = 540


def check_whole(path: Path, case: str | None = None) -> None:
    """Raise DataError where a NIfTI file (.nii, .nii.gz) is shorter than its header says or its checksum is wrong.

    Files of other formats pass: their readers notice. Nor is this the place to judge a header that is none, which the
    reader refuses.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    try:
        with path.open("rb") as stream:
            compressed = stream.read(2) == b"\x1f\x8b" and path.name.endswith(".gz")
        with gzip.open(path, "rb") if compressed else path.open("rb") as content:
            header = content.read(_HEADER_BYTES)
            expected = expected_bytes(header)
            if expected is None:
                return
            found = len(header) + _rest(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, case, f"its compressed stream is damaged or ends early: {error}") from error
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror})", case=case, file=path) from error
    if found < expected:
        raise _broken(path, case, f"it has {found} bytes where its header announces {expected}")


def expected_bytes(header: bytes) -> int | None:
    """Length in bytes of the uncompressed NIfTI-1 or NIfTI-2 file that a header announces; None for other headers.

    Fields as in nifti1.h and nifti2.h of the NIfTI standard.
    """
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header, 0) == (348,):
            sizes = struct.unpack_from(f"{order}8h", header, 40)
            (bits,) = struct.unpack_from(f"{order}h", header, 72)
            (offset,) = struct.unpack_from(f"{order}f", header, 108)
        elif len(header) >= _HEADER_BYTES and struct.unpack_from(f"{order}i", header, 0) == (540,):
            sizes = struct.unpack_from(f"{order}8q", header, 16)
            (bits,) = struct.unpack_from(f"{order}h", header, 14)
            (offset,) = struct.unpack_from(f"{order}q", header, 168)
        else:
            continue
        if not 1 <= sizes[0] <= 7 or not math.isfinite(offset):
            return None
        voxels = math.prod(max(1, int(n)) for n in sizes[1 : sizes[0] + 1])
        return int(offset) + voxels * int(bits) // 8
    return None


def _rest(stream: BinaryIO | gzip.GzipFile) -> int:
    """Bytes left in a stream; reading to the end lets gzip verify its checksum."""
    found = 0
    while chunk := stream.read(_CHUNK):
        found += len(chunk)
    return found


def _broken(path: Path, case: str | None, why: str) -> DataError:
    return DataError(
        f"the image is truncated or damaged: {why}", case=case, file=path, remedy="export or copy it again"
    )
