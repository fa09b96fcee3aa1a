"""Image series: order, values, grid, and every stack that is refused."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_writer import PET, image, put, save, write_series
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import grid_of
from gtvbench.datasets.dicom.images.series import read_series

STORED = np.random.default_rng(5).integers(-500, 3000, (5, 6, 7))

Change = Callable[[Dataset, int], None]


def _only(z: int, **tags: Any) -> Change:
    """Change the tags of one slice."""

    def change(ds: Dataset, at: int) -> None:
        if at == z:
            for keyword, value in tags.items():
                put(ds, keyword, value)

    return change


def test_slices_are_sorted_by_place_whatever_their_names_numbers_and_order(tmp_path: Path) -> None:
    files = write_series(tmp_path, STORED, lambda ds, z: put(ds, "InstanceNumber", [3, 1, 5, 2, 4][z]))
    found = read_series([files[i] for i in (2, 0, 4, 1, 3)])
    np.testing.assert_array_equal(found.volume.array, STORED - 1000)
    assert found.volume.array.dtype == np.float32
    assert found.volume.grid == Grid((5, 6, 7), (3.0, 2.0, 1.5), (-10.0, -20.0, -50.0))
    assert [header.file for header in found.headers] == files
    assert found.frame_of_reference == "1.2.3.4"
    assert all("PixelData" not in header.dataset for header in found.headers)


def test_the_grid_is_the_one_that_itk_reads(tmp_path: Path) -> None:
    turn = np.radians(20)
    tilted = [1, 0, 0, 0, np.cos(turn), np.sin(turn)]
    normal = np.cross(tilted[:3], tilted[3:])
    # From head to feet: the volume's z runs along the normal all the same.
    files = write_series(
        tmp_path,
        STORED,
        lambda ds, z: (
            put(ds, "ImageOrientationPatient", [f"{v:.10g}" for v in tilted]),
            put(ds, "ImagePositionPatient", [f"{v:.10g}" for v in np.array([-9.5, 4, 100]) + normal * (4 - z) * 2.5]),
        ),
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in reversed(files)])
    theirs = reader.Execute()
    found = read_series(files).volume
    assert found.grid.differences(grid_of(theirs)) == []
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(theirs))


def test_every_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    def change(ds: Dataset, z: int) -> None:
        ds.Modality, ds.SOPClassUID, ds.RescaleSlope, ds.RescaleIntercept = "PT", PET, f"{0.25 * (z + 1)}", "0"

    found = read_series(write_series(tmp_path, STORED, change)).volume.array
    np.testing.assert_allclose(found, STORED * 0.25 * np.arange(1, 6)[:, None, None], rtol=1e-6)


def test_unsigned_and_signed_slices_are_read_each_as_it_says_and_mr_without_rescale_as_stored(tmp_path: Path) -> None:
    def change(ds: Dataset, z: int) -> None:
        if z == 1:
            ds.PixelRepresentation = 0
            ds.PixelData = np.full((6, 7), 40_000, "<u2").tobytes()

    found = read_series(write_series(tmp_path / "ct", STORED, change)).volume.array
    assert np.all(found[1] == 39_000)
    np.testing.assert_array_equal(found[0], STORED[0] - 1000)
    files = write_series(tmp_path / "mr", STORED, Modality="MR", RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_series(files).volume.array, STORED)


@pytest.mark.parametrize("extended", [True, False])
def test_signed_values_of_twelve_bits_keep_their_sign(tmp_path: Path, extended: bool) -> None:
    values = np.clip(STORED, -2048, 2047)

    def change(ds: Dataset, z: int) -> None:
        ds.BitsStored, ds.HighBit = 12, 11
        stored = values[z] if extended else values[z] & 0xFFF
        ds.PixelData = stored.astype("<i2").tobytes()

    np.testing.assert_array_equal(read_series(write_series(tmp_path, values, change)).volume.array, values - 1000)


def test_an_overlay_in_the_unused_bits_is_no_part_of_the_values(tmp_path: Path) -> None:
    values = np.clip(STORED, 0, 4095)

    def change(ds: Dataset, z: int) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
        ds.add_new((0x6000, 0x0102), "US", 12)
        ds.PixelData = (values[z] | 0x1000).astype("<u2").tobytes()

    np.testing.assert_array_equal(read_series(write_series(tmp_path, values, change)).volume.array, values - 1000)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_other_transfer_syntaxes_are_read_where_a_decoder_is_installed(tmp_path: Path, syntax: str) -> None:
    files = []
    for z, values in enumerate(STORED):
        ds = image(values, (0, 0, 3.0 * z), SOPInstanceUID=f"1.2.3.8.{z + 1}")
        plain = ExplicitVRLittleEndian if syntax == RLELossless else syntax
        path = save(ds, tmp_path / f"{z}.dcm", plain)
        if syntax == RLELossless:
            ds.compress(RLELossless, generate_instance_uid=False)
            ds.save_as(path, enforce_file_format=True)
        files.append(path)
    np.testing.assert_array_equal(read_series(files).volume.array, STORED - 1000)


def test_positions_rounded_in_the_file_are_still_even(tmp_path: Path) -> None:
    positions = ["-50.0", "-46.7", "-43.5", "-40.2", "-36.9"]  # 3.27 mm, rounded to one digit
    files = write_series(tmp_path, STORED, lambda ds, z: put(ds, "ImagePositionPatient", ["0", "0", positions[z]]))
    assert read_series(files).volume.grid.spacing[0] == pytest.approx(3.275)


def _tilt(ds: Dataset, z: int) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0.9659258, 0.2588190]  # 15 degrees, and positions still along z


def _functional_groups(ds: Dataset, z: int) -> None:
    ds.SharedFunctionalGroupsSequence = [Dataset()]


def _overflow(ds: Dataset, z: int) -> None:
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
    ds.PixelData = np.full((6, 7), 0x3FFF, "<u2").tobytes()


def _lookup(ds: Dataset, z: int) -> None:
    ds.ModalityLUTSequence = [Dataset()]
    ds.ModalityLUTSequence[0].LUTExplanation = "x"


REFUSED: dict[str, tuple[Change, str]] = {
    "tilted gantry": (_tilt, r"lean by 15\.0 degrees"),
    "tilt in the header alone": (lambda ds, z: put(ds, "GantryDetectorTilt", "-12"), "GantryDetectorTilt"),
    "a slice shifted sideways": (_only(2, ImagePositionPatient=[-5.0, -20, -44]), "not stacked along their normal"),
    "two slices in one place": (_only(2, ImagePositionPatient=[-10.0, -20, -47]), "slices at the same place"),
    "all slices in one place": (lambda ds, z: put(ds, "ImagePositionPatient", [0, 0, 0]), "4 pair"),
    "uneven distances": (_only(4, ImagePositionPatient=[-10.0, -20, -37.1]), "distances between slices are mixed"),
    "another size": (_only(1, Rows=3, Columns=14), r"size \(Rows x Columns\) is 3 x 14 here and 6 x 7"),
    "another spacing": (_only(1, PixelSpacing=[2.0, 1.6]), "PixelSpacing"),
    "another orientation": (_only(1, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "ImageOrientationPatient"),
    "another series": (_only(3, SeriesInstanceUID="1.2.9"), "several series"),
    "another frame of reference": (_only(3, FrameOfReferenceUID="1.2.9"), "several frames of reference"),
    "a series' name gone": (_only(0, SeriesInstanceUID=None), "SeriesInstanceUID .* is missing"),
    "multi-frame": (_only(0, NumberOfFrames=20), "multi-frame"),
    "enhanced": (_functional_groups, "multi-frame"),
    "no pixels": (_only(2, PixelData=None), r"PixelData \(7FE0,0010\) is missing"),
    "too few pixels": (_only(2, PixelData=b"\0" * 40), "pixel data cannot be read"),
    "too many pixels": (_only(2, PixelData=b"\0" * 400), "pixel data cannot be read"),
    "no position": (_only(2, ImagePositionPatient=None), r"ImagePositionPatient \(0020,0032\) is missing"),
    "no orientation": (_only(2, ImageOrientationPatient=None), "ImageOrientationPatient"),
    "senseless orientation": (_only(2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "right angle"),
    "no pixel spacing": (_only(2, PixelSpacing=None), "PixelSpacing"),
    "pixel spacing of 0": (_only(2, PixelSpacing=[0, 1]), "above 0"),
    "CT without slope": (_only(2, RescaleSlope=None), "RescaleSlope .* is missing.* HU"),
    "CT without intercept": (_only(2, RescaleIntercept=None), "RescaleIntercept .* is missing"),
    "slope of 0": (_only(2, RescaleSlope=0), "RescaleSlope"),
    "CT of another quantity": (_only(2, RescaleType="MGML"), "not HU"),
    "values by a table": (_lookup, "ModalityLUTSequence"),
    "inverted": (_only(2, PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1"),
    "colour": (_only(2, PhotometricInterpretation="RGB", SamplesPerPixel=3), "3 sample"),
    "palette": (_only(2, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
    "no photometric interpretation": (_only(2, PhotometricInterpretation=None), "missing"),
    "a slope beyond numbers": (_only(2, RescaleSlope="1e300"), "beyond what numbers can hold"),
    "a place beyond the world": (_only(2, ImagePositionPatient=["1e300", "0", "0"]), "1e.300 mm away"),
    "a size beyond memory": (lambda ds, z: (put(ds, "Rows", 65535), put(ds, "Columns", 65535)), "pixel data"),
    "odd bits": (_only(2, BitsAllocated=12, BitsStored=12), "BitsAllocated"),
    "no sign stated": (_only(2, PixelRepresentation=None), "PixelRepresentation"),
    "values at high bits": (_only(2, BitsStored=12, HighBit=15), "HighBit"),
    "values beyond their bits": (_overflow, "do not fit BitsStored"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_plain_regular_stack_is_refused_with_a_remedy(tmp_path: Path, what: str) -> None:
    change, told = REFUSED[what]
    files = write_series(tmp_path, STORED, change)
    with pytest.raises(DataError, match=told) as caught:
        read_series(files, "P01")
    assert caught.value.case == "P01"
    assert caught.value.file and caught.value.remedy


def test_missing_slices_are_counted_and_placed(tmp_path: Path) -> None:
    files = write_series(tmp_path, np.repeat(STORED, 2, axis=0))
    with pytest.raises(DataError, match=r"3 slice\(s\) missing: .* between 002\.dcm and this one") as caught:
        read_series([path for z, path in enumerate(files) if z not in (3, 4, 7)])
    assert (caught.value.file or "").endswith("005.dcm")


def test_one_slice_none_and_files_that_are_absent_or_no_dicom_are_no_volume(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no image, " * 40)
    for files, told in (
        (write_series(tmp_path, STORED[:1]), "one slice only"),
        ([], "without files"),
        ([other], "not a DICOM file"),
        ([tmp_path / "absent.dcm"], "not found"),
    ):
        with pytest.raises(DataError, match=told):
            read_series(files)


def test_a_compression_without_decoder_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    ds = image(STORED[0], (0, 0, 0))
    squeezed = []
    for z in range(2):
        ds.ImagePositionPatient, ds.PixelData = [0, 0, 3.0 * z], encapsulate([b"\xff\xd8\xff\xd9"])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        squeezed.append(save(ds, tmp_path / f"jpegls{z}.dcm", JPEGLSLossless))
    with pytest.raises(DataError, match=r"JPEG-LS .* has no decoder installed") as caught:
        read_series(squeezed)
    assert "pylibjpeg" in (caught.value.remedy or "") and "gdcmconv" in (caught.value.remedy or "")


def test_an_unknown_transfer_syntax_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, STORED[:2])
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    with pytest.raises(DataError):
        read_series(files)


@fuzzed(80)
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_never_read_as_whole(tmp_path: Path, cut: float) -> None:
    files = write_series(tmp_path, STORED[:3])
    content = files[1].read_bytes()
    files[1].write_bytes(content[: int(cut * len(content))])
    with pytest.raises(DataError) as caught:
        read_series(files)
    assert caught.value.remedy


@fuzzed(120)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_byte_gives_a_volume_or_a_clear_error(tmp_path: Path, at: int, byte: int) -> None:
    files = write_series(tmp_path, STORED[:3])
    content = bytearray(files[1].read_bytes())
    content[at % len(content)] = byte
    files[1].write_bytes(bytes(content))
    with contextlib.suppress(DataError):
        read_series(files)
