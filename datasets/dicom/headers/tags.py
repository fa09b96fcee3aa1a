"""Reading headers with pydicom so that whatever is wrong becomes a DataError that names the tag."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from gtvbench.bench.core.errors import DataError

#: No patient lies farther from the frame of reference's origin; a coordinate beyond is a damaged one.
FARTHEST_MM = 1e6

_UNDEFINED = 0xFFFFFFFF  # the length of a value that ends with a delimiter


@dataclass(frozen=True)
class Header:
    """The header of a file and what errors about it must name."""

    dataset: Dataset
    file: Path
    case: str | None = None

    def text(self, keyword: str) -> str:
        """A value as text without padding; empty where the tag is absent, empty or unreadable."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # pydicom converts a value on access, and damaged ones raise whatever its converters raise
            return ""
        return "" if value is None else str(value).strip("\0 ")

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        """Finite numbers of a tag, None where it is absent or empty.

        Raises DataError where they are no finite numbers, or not `count` of them.
        """
        try:
            value = self.dataset.get(keyword)
            if value is None or (isinstance(value, str) and not value.strip("\0 ")):
                return None
            many = list(value) if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
            found = tuple(float(item) for item in many)
        except Exception as error:  # see `text`
            raise self.error(f"{tag_name(keyword)} is not numeric", "export the series again") from error
        if not found:
            return None
        if not all(map(math.isfinite, found)) or (count is not None and len(found) != count):
            raise self.error(
                f"{tag_name(keyword)} is {_short(found)}, not {count or 'only'} finite number(s)",
                "the header is damaged; export the series again",
            )
        return found

    def number(self, keyword: str) -> float | None:
        """The one number of a tag, None where it is absent or empty; raises DataError as `numbers` does."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def required(self, keyword: str, count: int) -> tuple[float, ...]:
        """As `numbers`, with a DataError where the tag is absent."""
        found = self.numbers(keyword, count)
        if found is None:
            raise self.error(
                f"{tag_name(keyword)} is missing", "export the series again with its whole header, or leave it out"
            )
        return found

    def items(self, keyword: str) -> list[Dataset]:
        """Items of a sequence; empty where it is absent. Raises DataError where it cannot be read."""
        try:
            return list(self.dataset.get(keyword) or [])
        except Exception as error:  # see `text`
            raise self.error(f"{tag_name(keyword)} cannot be read", "the file is damaged; export it again") from error

    def within(self, item: Dataset) -> Header:
        """An item of a sequence of this file."""
        return Header(item, self.file, self.case)

    def error(self, message: str, remedy: str) -> DataError:
        """A DataError of this case and file."""
        return DataError(message, case=self.case, file=self.file, remedy=remedy)


def tag_name(keyword: str) -> str:
    """A tag as messages name it: keyword and (gggg,eeee)."""
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_header(path: Path, case: str | None = None, pixels: bool = False) -> Header:
    """Read a DICOM file (Part 10), with or without its pixel data.

    Raises DataError where it is missing, is no DICOM file, or ends before what is read of it does.
    """
    if not path.is_file():
        raise DataError("DICOM file not found", case=case, file=path, remedy="check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break a VR's rules; those needed are checked where used
            dataset = dcmread(path, stop_before_pixels=not pixels)
            cut = not len(dataset) or _is_cut(dataset)
    except InvalidDicomError as error:
        raise DataError(
            "this is not a DICOM file (no 'DICM' after the preamble)",
            case=case,
            file=path,
            remedy="take the file out of the series, or export it again as DICOM Part 10",
        ) from error
    except Exception as error:  # damaged files raise whatever pydicom stumbles on
        raise DataError(
            f"the DICOM file cannot be read ({reason(error)})",
            case=case,
            file=path,
            remedy="it is truncated or damaged; export or copy it again",
        ) from error
    if cut:
        raise DataError(
            f"the DICOM file ends before its {'content' if pixels else 'header'} does",
            case=case,
            file=path,
            remedy="it is truncated or damaged; export or copy it again",
        )
    return Header(dataset, path, case)


def _is_cut(dataset: Dataset) -> bool:
    """Whether a value is shorter than the file says: pydicom reads what is left of a last value without a word."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating the dataset itself would convert every value
        item: Any = dataset.get_item(tag)
        if not isinstance(item, RawDataElement) or item.value is None:
            continue
        if item.length not in (_UNDEFINED, len(item.value)):
            return True
    return False


def reason(error: Exception) -> str:
    """What an exception of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _short(values: Any) -> str:
    return "\\".join(f"{v:g}" for v in values[:8]) or "empty"
