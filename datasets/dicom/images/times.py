"""Dates and times of a PET series: the injection, and the scan's start, to which its values are decay-corrected."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from pydicom.valuerep import DA, DT, TM

from gtvbench.datasets.dicom.headers.tags import Header, tag_name

#: Series and acquisition times that differ by less are the same: vendors cut fractions of a second differently.
SAME_SECONDS = 1.0
#: Scan starts computed back from every frame agree to this where FrameReferenceTime means what Siemens means by it.
AGREEMENT_SECONDS = 10.0

_GE_GROUP, _GE_CREATOR, _GE_SCAN = 0x0009, "GEMS_PETD_01", 0x0D


def moment(text: str, zone: str = "") -> datetime | None:
    """A DICOM DT, or an option 'YYYYMMDDHHMMSS', as wall-clock time; None where it is none.

    An offset from UTC in it is turned into that of `zone` (TimezoneOffsetFromUTC, '+HHMM'), and dropped where there is
    no zone: the TM values that it is compared with are local and carry none.
    """
    try:
        found = DT(text)
        local = None if not zone else datetime.strptime(zone, "%z").tzinfo
    except (ValueError, TypeError, OverflowError):
        return None
    if found is None or len(text.strip()) < len("YYYYMMDDHHMM"):
        return None
    whole = datetime(
        found.year, found.month, found.day, found.hour, found.minute, found.second, found.microsecond, found.tzinfo
    )
    if whole.tzinfo is not None and local is not None:
        with contextlib.suppress(OverflowError):  # at the ends of the calendar
            whole = whole.astimezone(local)
    return whole.replace(tzinfo=None)


def clock(text: str) -> time | None:
    """A DICOM TM ('HHMMSS.ffffff'), None where it is none."""
    try:
        found = TM(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return None if found is None else time(found.hour, found.minute, found.second, found.microsecond)


def day(text: str) -> date | None:
    """A DICOM DA ('YYYYMMDD'), None where it is none."""
    try:
        found = DA(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return None if found is None else date(found.year, found.month, found.day)


def scan_start(headers: Sequence[Header], half_life_s: float) -> tuple[datetime, str]:
    """The time that DecayCorrection START corrects to, and where it came from.

    It is the series' time unless that lies after the earliest acquisition: then the series was made later (GE: a
    re-processed series; Siemens: an altered series time), and the start is GE's private scan time (0009,100D), or the
    acquisition time less FrameReferenceTime plus the time of average count rate within the frame (Siemens), or, where
    the frames' starts so computed disagree or cannot be computed, the earliest acquisition.

    Source: QIBA, Standardized Uptake Value, vendor-neutral pseudo-code (robust version). Raises DataError, naming
    tags and the option 'scan-time'.
    """
    first = headers[0]
    series = _at(first, "SeriesDate", "SeriesTime")
    acquired = [_at(h, "AcquisitionDate", "AcquisitionTime", "SeriesDate") for h in headers]
    known = [when for when in acquired if when is not None]
    if not known and series is None:
        raise first.error(
            f"neither {tag_name('SeriesTime')} nor {tag_name('AcquisitionTime')} is there with its date",
            "supply the start of the scan with the option 'scan-time' (YYYYMMDDHHMMSS)",
        )
    if series is None:
        return min(known), "earliest AcquisitionTime (no SeriesTime)"
    if not known:
        return series, "SeriesTime (no AcquisitionTime)"
    earliest = min(known)
    late = (series - earliest).total_seconds()
    if late <= SAME_SECONDS:
        return series, "SeriesTime"
    private = _ge_scan_time(first)
    if private is not None:
        return private, "GE private scan time (0009,100D): the series' time lies after the acquisition"
    starts = _back_computed(headers, acquired, half_life_s)
    if starts and (max(starts) - min(starts)).total_seconds() <= AGREEMENT_SECONDS:
        return min(starts), "AcquisitionTime less FrameReferenceTime: the series' time lies after the acquisition"
    return earliest, "earliest AcquisitionTime: the series' time lies after the acquisition"


def seconds_from_injection(
    header: Header, item: Header | None, scan: datetime, injection: datetime | None, limit_s: float
) -> float:
    """Seconds from injection to the scan's start, from 0 to `limit_s`.

    `item` is the radiopharmaceutical's; its DateTime (0018,1078) is taken where it lies within `limit_s` before the
    scan (de-identification shifts dates apart), else its Time (0018,1072) alone, on the scan's day or, past midnight,
    the day before. `injection` overrides both. Messages tell minutes, never dates or clock times: errors end in
    reports. Raises DataError naming the tags and the option 'injection-time'.
    """
    remedy = "supply the time of injection with the option 'injection-time' (YYYYMMDDHHMMSS)"
    if injection is not None:
        passed = (scan - injection).total_seconds()
        if not 0 <= passed <= limit_s:
            raise header.error(
                f"the injection lies {passed / 60:.0f} min before the start of the scan, not 0 to "
                f"{limit_s / 60:.0f} min",
                "correct the option 'injection-time' or 'scan-time'",
            )
        return passed
    zone = header.text("TimezoneOffsetFromUTC")
    whole = None if item is None else moment(item.text("RadiopharmaceuticalStartDateTime"), zone)
    if whole is not None and 0 <= (scan - whole).total_seconds() <= limit_s:
        return (scan - whole).total_seconds()
    at = None if item is None else clock(item.text("RadiopharmaceuticalStartTime"))
    if at is None:
        told = "is missing or unreadable" if whole is None else f"is not within {limit_s / 60:.0f} min before the scan"
        raise header.error(
            f"{tag_name('RadiopharmaceuticalStartDateTime')} {told}, and {tag_name('RadiopharmaceuticalStartTime')} "
            "is missing or unreadable",
            remedy,
        )
    start = datetime.combine(scan.date(), at)
    if start > scan:
        start -= timedelta(days=1)  # injected before midnight, scanned after it
    passed = (scan - start).total_seconds()
    if passed > limit_s:
        raise header.error(
            f"{tag_name('RadiopharmaceuticalStartTime')} lies {passed / 60:.0f} min before the scan, more than "
            f"{limit_s / 60:.0f} min: it or the scan's time is wrong",
            f"{remedy}, or the scan's with 'scan-time'",
        )
    return passed


def average_rate_seconds(half_life_s: float, duration_s: float) -> float:
    """Seconds from a frame's start to the time at which its activity equals its average over the frame.

    t = ln(x / (1 - exp(-x))) / lambda, x = lambda * duration (QIBA's pseudo-code, robust version).
    """
    rate = math.log(2) / half_life_s
    x = rate * duration_s
    return math.log(x / -math.expm1(-x)) / rate if x > 1e-9 else duration_s / 2


def _back_computed(
    headers: Sequence[Header], acquired: Sequence[datetime | None], half_life_s: float
) -> list[datetime]:
    """The scan's start from every frame; empty where one frame lacks what that takes."""
    starts = []
    for header, when in zip(headers, acquired, strict=True):
        reference, duration = header.number("FrameReferenceTime"), header.number("ActualFrameDuration")  # both in ms
        if when is None or not reference or not duration or reference < 0 or not 0 < duration < 86_400_000:
            return []
        shift = average_rate_seconds(half_life_s, duration / 1000) - reference / 1000
        if abs(shift) > 7 * 86_400:
            return []
        starts.append(when + timedelta(seconds=shift))
    return starts


def _ge_scan_time(header: Header) -> datetime | None:
    try:
        value = header.dataset.private_block(_GE_GROUP, _GE_CREATOR)[_GE_SCAN].value
    except Exception:  # absent, or damaged in any way: the next source of the time is tried
        return None
    return moment(value.decode("ascii", "ignore").strip("\0 ") if isinstance(value, bytes) else str(value))


def _at(header: Header, dated: str, timed: str, instead: str | None = None) -> datetime | None:
    on = day(header.text(dated)) or (day(header.text(instead)) if instead else None)
    at = clock(header.text(timed))
    return None if on is None or at is None else datetime.combine(on, at)
