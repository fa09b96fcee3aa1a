"""Body-weight SUV: units, decay, times, Philips' factors, and what is refused."""

import contextlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_writer import pet_header
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from gtvbench.bench.core.errors import DataError
from gtvbench.datasets.dicom.headers.tags import Header
from gtvbench.datasets.dicom.images.suv import SuvFactor, SuvOptions, suv_factor
from gtvbench.datasets.dicom.images.times import average_rate_seconds, moment

NO_DECAY = 70_000 / 350e6
AN_HOUR = NO_DECAY * 2 ** (3600 / 6588)


def _header(**changes: Any) -> Header:
    return Header(pet_header(**changes), Path("slice.dcm"), "P01")


def _factor(options: dict[str, Any] | None = None, **changes: Any) -> SuvFactor:
    return suv_factor([_header(**changes)], SuvOptions.model_validate(options or {}))


def _philips(**factors: str) -> Header:
    header = _header(Units="CNTS")
    block = header.dataset.private_block(0x7053, "Philips PET Private Group", create=True)
    for element, value in factors.items():
        block.add_new({"suv": 0x00, "activity": 0x09}[element], "DS", value)
    return header


#: What the headers say of times, and the seconds between injection and scan that they mean.
TIMES: dict[str, tuple[dict[str, Any], float]] = {
    "the dose decays to the start of the scan": ({}, 3600),
    "values corrected to administration need neither decay nor times": (
        {"DecayCorrection": "ADMIN", "SeriesTime": None, "AcquisitionTime": None,
         "RadiopharmaceuticalStartTime": None}, 0),
    "an injection before midnight is of the day before": (
        {"SeriesTime": "003000", "AcquisitionTime": "003000", "RadiopharmaceuticalStartTime": "233000.50"}, 3599.5),
    "date and time of the injection come before its time alone": (
        {"RadiopharmaceuticalStartDateTime": "20200229233000", "SeriesTime": "003000", "AcquisitionTime": "003000",
         "SeriesDate": "20200301", "RadiopharmaceuticalStartTime": "110000"}, 3600),
    "a date that de-identification shifted gives way to the time of day": (
        {"RadiopharmaceuticalStartDateTime": "20110101110000"}, 3600),
    "an offset from UTC is brought to the file's zone": (
        {"RadiopharmaceuticalStartDateTime": "20200301100000+0000", "TimezoneOffsetFromUTC": "+0100"}, 3600),
    "fractions of a second do not make a series late": ({"SeriesTime": "120000.7"}, 3600.7),
}  # fmt: skip


@pytest.mark.parametrize("what", TIMES)
def test_the_dose_decays_from_injection_to_the_start_of_the_scan(what: str) -> None:
    changes, seconds = TIMES[what]
    found = _factor(**changes)
    assert found.decay_s == pytest.approx(seconds)
    assert found.factor == pytest.approx(NO_DECAY * 2 ** (seconds / 6588), rel=1e-12)
    assert found.units == "BQML"


def test_a_series_made_later_takes_the_private_scan_time_of_ge() -> None:
    header = _header(SeriesTime="170000", AcquisitionTime="120500")
    block = header.dataset.private_block(0x0009, "GEMS_PETD_01", create=True)
    block.add_new(0x0D, "DT", "20200301120000.00")
    assert suv_factor([header]).decay_s == 3600


def test_a_series_made_later_is_computed_back_from_each_frame_as_siemens_means_it() -> None:
    frame, half_life = 180.0, 6588.0
    middle = average_rate_seconds(half_life, frame)
    headers = [
        _header(
            SeriesTime="170000",
            AcquisitionTime=time,
            ActualFrameDuration=str(int(frame * 1000)),
            FrameReferenceTime=f"{1000 * (offset + middle):.3f}",
        )
        for time, offset in (("120000", 0), ("120300", 180), ("120600", 360))
    ]
    assert suv_factor(headers).decay_s == pytest.approx(3600, abs=0.01)
    # A series of the upper beds alone has lost its earliest acquisition, not the start of its scan.
    assert suv_factor(headers[1:]).decay_s == pytest.approx(3600, abs=0.01)


@pytest.mark.parametrize("references", [("0.0", "243000.0", "486000.0"), ("120000.0", "363000.0")])
def test_frames_that_disagree_on_the_start_leave_the_earliest_acquisition(references: tuple[str, ...]) -> None:
    headers = [
        _header(SeriesTime="170000", AcquisitionTime="120000", ActualFrameDuration="240000", FrameReferenceTime=after)
        for after in references
    ]
    found = suv_factor(headers)
    assert found.decay_s == 3600
    assert "earliest AcquisitionTime" in found.told
    headers = [_header(SeriesTime=None, AcquisitionTime=time) for time in ("120600", "120000")]
    assert suv_factor(headers).decay_s == 3600, "a series without its own time takes the earliest too"


@pytest.mark.parametrize(("half_life", "duration"), [(6588.0, 180.0), (75.0, 600.0), (4e5, 1e-6)])
def test_the_activity_at_the_time_of_average_rate_is_the_average_over_the_frame(
    half_life: float, duration: float
) -> None:
    # Middle of each of many equal parts of the frame: their mean activity is the average.
    middles = (np.arange(20_000) + 0.5) / 20_000 * duration
    average = np.mean(2.0 ** (-middles / half_life))
    at = average_rate_seconds(half_life, duration)
    assert 2.0 ** (-at / half_life) == pytest.approx(average, rel=1e-8)
    assert 0 < at <= duration / 2


def test_gml_is_taken_as_body_weight_suv_and_other_suv_is_refused() -> None:
    assert _factor(Units="GML").factor == 1
    assert _factor(Units="GML", SUVType="BW").factor == 1
    with pytest.raises(DataError, match=r"SUVType \(0054,1006\) is LBM"):
        _factor(Units="GML", SUVType="LBM")


def test_counts_take_the_factor_of_philips_for_suv_then_that_for_activity_and_are_refused_without() -> None:
    found = suv_factor([_philips(suv="0.0005", activity="12")])
    assert (found.factor, found.decay_s) == (0.0005, None)
    for factors in ({"activity": "12"}, {"suv": "0", "activity": "12"}):
        assert suv_factor([_philips(**factors)]).factor == pytest.approx(12 * AN_HOUR)
    with pytest.raises(DataError, match=r"\(7053,1000\).*\(7053,1009\)"):
        _factor(Units="CNTS")


@pytest.mark.parametrize(
    ("changes", "tag", "option"),
    [
        ({"PatientWeight": None}, "PatientWeight (0010,1030) is missing", "weight-kg"),
        ({"PatientWeight": ""}, "PatientWeight (0010,1030) is missing", "weight-kg"),
        ({"PatientWeight": "0"}, "PatientWeight (0010,1030) is 0", "weight-kg"),
        ({"PatientWeight": "70000"}, "PatientWeight (0010,1030) is 70000", "weight-kg"),
        ({"RadionuclideTotalDose": None}, "RadionuclideTotalDose (0018,1074) is missing", "dose-bq"),
        ({"RadionuclideTotalDose": "350"}, "RadionuclideTotalDose (0018,1074) is 350", "dose-bq"),
        ({"RadionuclideHalfLife": None}, "RadionuclideHalfLife (0018,1075) is missing", "half-life-s"),
        ({"RadionuclideHalfLife": "109.8"}, "RadionuclideHalfLife (0018,1075) is 109.8", "half-life-s"),
        ({"RadiopharmaceuticalInformationSequence": None}, "RadionuclideTotalDose (0018,1074) is missing", "dose-bq"),
        ({"RadiopharmaceuticalStartTime": None}, "RadiopharmaceuticalStartTime (0018,1072)", "injection-time"),
        ({"RadiopharmaceuticalStartTime": "noon"}, "RadiopharmaceuticalStartTime (0018,1072)", "injection-time"),
        ({"RadiopharmaceuticalStartTime": "120500"}, "RadiopharmaceuticalStartTime (0018,1072)", "injection-time"),
        ({"SeriesTime": None, "AcquisitionTime": None}, "SeriesTime (0008,0031)", "scan-time"),
        ({"Units": None}, "Units (0054,1001) is missing", "units"),
        ({"Units": "PROPCPS"}, "Units (0054,1001) is PROPCPS", "units"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection (0054,1102) is NONE", "decay-correction"),
        ({"CorrectedImage": ["ATTN"]}, "CorrectedImage (0028,0051) does not list DECY", "decay-correction"),
        ({"CorrectedImage": ["DECY"]}, "CorrectedImage (0028,0051) does not list ATTN", "decay-correction"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_what_is_missing_or_absurd_names_case_file_tag_and_option(
    changes: dict[str, Any], tag: str, option: str
) -> None:
    header = _header(**changes)
    if "RadiopharmaceuticalInformationSequence" in changes:
        del header.dataset.RadiopharmaceuticalInformationSequence
    with pytest.raises(DataError) as caught:
        suv_factor([header])
    assert tag in caught.value.message
    assert f"'{option}'" in (caught.value.remedy or "")
    assert (caught.value.case, caught.value.file) == ("P01", "slice.dcm")


def test_a_weight_that_is_no_number_names_the_option() -> None:
    header = _header(PatientWeight=None)
    header.dataset[0x00101030] = RawDataElement(Tag(0x00101030), "DS", 4, b"much", 0, False, True)
    with pytest.raises(DataError, match=r"PatientWeight \(0010,1030\) is not numeric") as caught:
        suv_factor([header])
    assert "'weight-kg'" in (caught.value.remedy or "")


def test_options_stand_in_for_every_tag() -> None:
    options = {
        "weight-kg": 70, "dose-bq": 350e6, "half-life-s": 6588, "injection-time": "20200301110000",
        "scan-time": "20200301120000", "units": "BQML", "decay-correction": "START",
    }  # fmt: skip
    bare = Header(Dataset(), Path("slice.dcm"))
    assert suv_factor([bare], SuvOptions.model_validate(options)).factor == pytest.approx(AN_HOUR)


@pytest.mark.parametrize("options", [{"weight-kg": 70000}, {"scan-time": "noon"}, {"units": "KG"}, {"weight": 70}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SuvOptions.model_validate(options)


def test_files_that_disagree_and_several_injections_are_no_series() -> None:
    for change, option in (({"PatientWeight": "71"}, "weight-kg"), ({"RadionuclideTotalDose": "351000000"}, "dose-bq")):
        with pytest.raises(DataError, match="differs within the series") as caught:
            suv_factor([_header(), _header(**change)])
        assert f"'{option}'" in (caught.value.remedy or "")
    header = _header()
    header.dataset.RadiopharmaceuticalInformationSequence.append(Dataset())
    with pytest.raises(DataError, match="2 radiopharmaceuticals"):
        suv_factor([header])


def test_no_name_date_or_clock_time_is_told() -> None:
    told = _factor().told
    with pytest.raises(DataError, match="lies -60 min before the start of the scan") as after:
        _factor({"injection-time": "20200301130000"})
    with pytest.raises(DataError) as wrapped:
        _factor(RadiopharmaceuticalStartTime="120500")
    for text in (told, after.value.message, wrapped.value.message):
        assert not any(secret in text for secret in ("2020", "12:0", "1205", "13:0", "P01", "slice"))


@fuzzed(60)
@given(weight=st.floats(1, 500), dose=st.floats(1e6, 1e11), start=st.integers(0, 86_399), minutes=st.integers(0, 600))
def test_the_factor_follows_the_law_of_decay_at_any_time_of_day(
    weight: float, dose: float, start: int, minutes: int
) -> None:
    injected = moment("20200301000000")
    assert injected is not None
    injected += timedelta(seconds=start)
    scan = injected + timedelta(minutes=minutes)
    found = _factor(
        PatientWeight=f"{weight:.6g}",
        RadionuclideTotalDose=f"{dose:.8g}",
        RadiopharmaceuticalStartTime=f"{injected:%H%M%S}",
        SeriesDate=f"{scan:%Y%m%d}",
        SeriesTime=f"{scan:%H%M%S}",
        AcquisitionDate=f"{scan:%Y%m%d}",
        AcquisitionTime=f"{scan:%H%M%S}",
    )
    expected = 1000 * float(f"{weight:.6g}") / float(f"{dose:.8g}") * 2 ** (60 * minutes / 6588)
    assert found.factor == pytest.approx(expected, rel=1e-9)


@fuzzed(150)
@given(text=st.text("0123456789.+- ABCDEF:", max_size=20), keyword=st.sampled_from([
    "SeriesTime", "AcquisitionTime", "SeriesDate", "AcquisitionDate", "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime", "PatientWeight", "RadionuclideHalfLife", "RadionuclideTotalDose",
    "FrameReferenceTime", "Units", "DecayCorrection",
]))  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_any_text_in_a_tag_gives_a_factor_or_a_clear_error(text: str, keyword: str) -> None:
    header = _header()
    target = header.dataset
    if keyword.startswith("Radio"):
        target = target.RadiopharmaceuticalInformationSequence[0]
    try:
        setattr(target, keyword, text)
    except (ValueError, OverflowError):  # pydicom writes no such value
        return
    with contextlib.suppress(DataError):
        assert suv_factor([header]).factor > 0
