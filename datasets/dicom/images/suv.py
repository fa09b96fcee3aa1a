"""Body-weight SUV of a PET series: the factor that its rescaled values are multiplied by.

Source: QIBA, Standardized Uptake Value (SUV), vendor-neutral pseudo-code; units and tags from DICOM PS3.3 C.8.9.1.
SUVbw = activity concentration (Bq/ml) x weight (g) / dose (Bq), the dose decayed to the time that the values are
corrected to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import Field, field_validator

from gtvbench.bench.core.errors import DataError
from gtvbench.datasets.base import SourceOptions
from gtvbench.datasets.dicom.headers.tags import Header, tag_name
from gtvbench.datasets.dicom.images.times import moment, scan_start, seconds_from_injection

#: What a value must lie in to be believed; outside, a unit was mixed up (g, MBq, minutes) or a field left at 0.
WEIGHT_KG = (1.0, 500.0)
DOSE_BQ = (1e6, 1e11)
HALF_LIFE_S = (60.0, 1e6)  # 82Rb 75 s, 124I 3.6e5 s
#: Half-life of 18F in s, as the NIST value 1.82871 h; and the codes of 18F in DICOM PS3.16 CID 4020.
F18_HALF_LIFE_S = 6583.4
F18_CODES = ("C-111A1", "77004003")
F18_TOLERANCE = 0.02
#: A scan begins within so many half-lives of the injection (1.6 % of the activity is left), or a time is wrong.
MOST_HALF_LIVES = 6.0

_PHILIPS_GROUP, _PHILIPS_CREATOR = 0x7053, "Philips PET Private Group"
_PHILIPS_SUV, _PHILIPS_ACTIVITY = 0x00, 0x09

T = TypeVar("T")
Decay = Literal["START", "ADMIN"]
Units = Literal["BQML", "CNTS", "GML"]


class SuvOptions(SourceOptions):
    """What the headers of a PET series lack or state wrongly. Each key replaces the value of the header."""

    weight_kg: float | None = Field(None, ge=WEIGHT_KG[0], le=WEIGHT_KG[1])
    """The patient's weight."""
    dose_bq: float | None = Field(None, ge=DOSE_BQ[0], le=DOSE_BQ[1])
    """Injected activity at the time of injection."""
    half_life_s: float | None = Field(None, ge=HALF_LIFE_S[0], le=HALF_LIFE_S[1])
    """Half-life of the radionuclide."""
    injection_time: str | None = None
    """Local time as `"YYYYMMDDHHMMSS"`."""
    scan_time: str | None = None
    """Local time as `"YYYYMMDDHHMMSS"`."""
    units: Units | None = None
    """Units of the stored values."""
    decay_correction: Decay | None = None
    """Time to which the values are corrected for decay: start of the scan, or injection."""

    @field_validator("injection_time", "scan_time")
    @classmethod
    def _is_time(cls, given: str | None) -> str | None:
        if given is not None and moment(given) is None:
            raise ValueError("a time is written YYYYMMDDHHMMSS, for example '20240131093000'")
        return given


@dataclass(frozen=True)
class SuvFactor:
    """`factor` turns rescaled values into SUVbw (g/ml); the rest says how it came about, for the record.

    `decay_s` is the time in s that the dose was decayed over: None where the values needed none (GML, Philips' own
    factor), 0 for ADMIN. `told` is one line without names, dates or clock times.
    """

    factor: float
    units: str
    told: str
    decay_s: float | None = None


_NO_OPTIONS = SuvOptions.model_validate({})


def suv_factor(headers: Sequence[Header], options: SuvOptions = _NO_OPTIONS) -> SuvFactor:
    """The factor from rescaled values to SUVbw of one PET series, given the headers of all its files.

    Raises DataError, naming case, file, tag and the option that would supply it, where a value is missing, absurd, or
    not the same in all files, and where units or decay correction are others than those supported.
    """
    first = headers[0]
    units: str | None = options.units
    if units is None:
        units = _same(headers, "Units", lambda h: h.text("Units").upper())
    if units == "GML":
        return _from_suv(headers, options)
    if units == "CNTS":
        return _from_counts(headers, options)
    if units == "BQML":
        factor, decay_s, told = _from_activity(headers, options)
        return SuvFactor(factor, "BQML", told, decay_s)
    raise first.error(
        f"{tag_name('Units')} is {units or 'missing'}; SUVbw can be made of BQML, CNTS (Philips) and GML",
        "export the series in Bq/ml, or say with the option 'units' what its values are",
    )


def _from_suv(headers: Sequence[Header], options: SuvOptions) -> SuvFactor:
    kind = _same(headers, "SUVType", lambda h: h.text("SUVType").upper())
    if kind not in ("", "BW") and options.units is None:
        raise headers[0].error(
            f"{tag_name('SUVType')} is {kind}: the values are an SUV, but not by body weight",
            "export the series in Bq/ml or as SUVbw; the option 'units: GML' takes them as SUVbw all the same",
        )
    return SuvFactor(1.0, "GML", "values are SUVbw (GML)" + ("" if kind else ", taken as by body weight"))


def _from_counts(headers: Sequence[Header], options: SuvOptions) -> SuvFactor:
    suv = _same(headers, "the SUV factor (7053,1000)", lambda h: _philips(h, _PHILIPS_SUV))
    if suv is not None:
        return SuvFactor(suv, "CNTS", "CNTS by the Philips SUV factor (7053,1000)")
    activity = _same(headers, "the activity factor (7053,1009)", lambda h: _philips(h, _PHILIPS_ACTIVITY))
    if activity is None:
        raise headers[0].error(
            f"{tag_name('Units')} is CNTS, and neither the Philips SUV factor (7053,1000) nor the activity factor "
            "(7053,1009) is there (de-identification removes private tags)",
            "export the series in Bq/ml or with its private tags; if its values are Bq/ml or SUV, say so with 'units'",
        )
    factor, decay_s, told = _from_activity(headers, options)
    return SuvFactor(activity * factor, "CNTS", f"CNTS by the Philips activity factor (7053,1009); {told}", decay_s)


def _from_activity(headers: Sequence[Header], options: SuvOptions) -> tuple[float, float, str]:
    """SUV a Bq/ml, seconds of decay, and how."""
    first = headers[0]
    item = _radiopharmaceutical(first)
    decay = options.decay_correction or _decay_correction(headers)
    weight = options.weight_kg or _plausible(
        first, _same(headers, "PatientWeight", lambda h: _number(h, "PatientWeight")), "PatientWeight", WEIGHT_KG, "kg"
    )
    dose = options.dose_bq or _of_item(headers, "RadionuclideTotalDose", DOSE_BQ, "Bq")
    if decay == "ADMIN":
        return 1000 * weight / dose, 0.0, "decay-corrected to administration (ADMIN)"
    half_life = options.half_life_s or _half_life(headers, item)
    scan, source = (_moment(options.scan_time), "option 'scan-time'") if options.scan_time else (None, "")
    if scan is None:
        scan, source = scan_start(headers, half_life)
    injection = _moment(options.injection_time) if options.injection_time else None
    passed = seconds_from_injection(first, item, scan, injection, MOST_HALF_LIVES * half_life)
    decayed = dose * 2 ** (-passed / half_life)
    return 1000 * weight / decayed, passed, f"decay-corrected to the scan's start (START), by {source}"


def _decay_correction(headers: Sequence[Header]) -> str:
    first = headers[0]
    decay = _same(headers, "DecayCorrection", lambda h: h.text("DecayCorrection").upper())
    if decay not in ("START", "ADMIN"):
        raise first.error(
            f"{tag_name('DecayCorrection')} is {decay or 'missing'}, not START or ADMIN",
            "export a decay-corrected series; if the values are, say to when with the option 'decay-correction'",
        )
    corrections = first.text("CorrectedImage").upper()
    if corrections and "DECY" not in corrections:
        raise first.error(
            f"{tag_name('CorrectedImage')} does not list DECY though {tag_name('DecayCorrection')} is {decay}",
            "export a decay-corrected series; if the values are, say to when with the option 'decay-correction'",
        )
    if corrections and "ATTN" not in corrections:
        raise first.error(
            f"{tag_name('CorrectedImage')} does not list ATTN: the series is not corrected for attenuation",
            "choose the attenuation-corrected series (to take this one all the same, set 'decay-correction')",
        )
    return decay


def _half_life(headers: Sequence[Header], item: Header | None) -> float:
    found = _of_item(headers, "RadionuclideHalfLife", HALF_LIFE_S, "s")
    codes = [] if item is None else [item.within(c).text("CodeValue") for c in item.items("RadionuclideCodeSequence")]
    if any(code in F18_CODES for code in codes) and abs(found / F18_HALF_LIFE_S - 1) > F18_TOLERANCE:
        raise headers[0].error(
            f"{tag_name('RadionuclideHalfLife')} is {found:g} s, but {tag_name('RadionuclideCodeSequence')} is 18F, "
            f"whose half-life is {F18_HALF_LIFE_S:g} s",
            "supply the half-life in s with the option 'half-life-s'",
        )
    return found


def _of_item(headers: Sequence[Header], keyword: str, limits: tuple[float, float], unit: str) -> float:
    """A number of the radiopharmaceutical, the same in all files."""

    def read(header: Header) -> float | None:
        item = _radiopharmaceutical(header)
        return None if item is None else _number(item, keyword)

    return _plausible(headers[0], _same(headers, keyword, read), keyword, limits, unit)


_SUPPLY = {
    "PatientWeight": "weight-kg",
    "RadionuclideTotalDose": "dose-bq",
    "RadionuclideHalfLife": "half-life-s",
    "Units": "units",
    "SUVType": "units",
    "DecayCorrection": "decay-correction",
}


def _number(header: Header, keyword: str) -> float | None:
    try:
        return header.number(keyword)
    except DataError as error:
        raise header.error(error.message, f"supply it with the option '{_SUPPLY[keyword]}'") from error


def _plausible(header: Header, value: float | None, keyword: str, limits: tuple[float, float], unit: str) -> float:
    remedy = f"supply it in {unit} with the option '{_SUPPLY[keyword]}'"
    if value is None:
        raise header.error(f"{tag_name(keyword)} is missing: SUV cannot be computed", remedy)
    if not limits[0] <= value <= limits[1]:
        raise header.error(
            f"{tag_name(keyword)} is {value:g} {unit}, outside {limits[0]:g} to {limits[1]:g} {unit}", remedy
        )
    return value


def _radiopharmaceutical(header: Header) -> Header | None:
    found = header.items("RadiopharmaceuticalInformationSequence")
    if len(found) > 1:
        raise header.error(
            f"{tag_name('RadiopharmaceuticalInformationSequence')} has {len(found)} radiopharmaceuticals",
            "SUV of several injections is not supported; export a series of one of them",
        )
    return header.within(found[0]) if found else None


def _same(headers: Sequence[Header], what: str, read: Callable[[Header], T]) -> T:
    """What all files of the series agree on."""
    first = read(headers[0])
    for header in headers[1:]:
        if (other := read(header)) != first:
            remedy = f"; if the series is one, set the option '{_SUPPLY[what]}'" if what in _SUPPLY else ""
            raise header.error(
                f"{tag_name(what)} differs within the series: {other} here, {first} in {headers[0].file.name}",
                f"these are files of several series; keep them apart{remedy}",
            )
    return first


def _philips(header: Header, element: int) -> float | None:
    """A private factor of Philips, None where it is absent or not above 0 (written so where it does not apply)."""
    try:
        value = header.dataset.private_block(_PHILIPS_GROUP, _PHILIPS_CREATOR)[element].value
        number = float(value.decode("ascii", "strict").strip("\0 ") if isinstance(value, bytes) else value)
    except Exception:  # absent, or damaged in any way: treated as absent, and the caller says so
        return None
    return number if 0 < number < float("inf") else None


def _moment(option: str) -> datetime:
    found = moment(option)
    assert found is not None  # validated by SuvOptions
    return found
