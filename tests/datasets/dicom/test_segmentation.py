"""DICOM SEG: the references of dcmqi, other grids and orientations, damaged files."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_patient import Person, Study, ct_kind, series
from dicom_structures import segmentation
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume, canonical
from gtvbench.bench.files.nifti import read_volume
from gtvbench.datasets.dicom.images.series import read_series
from gtvbench.datasets.dicom.structures.segmentation import read_segmentation, segment_mask

SHAPE = (6, 12, 10)
GRID = Grid(SHAPE, (3.0, 1.5, 1.5), (-7.0, -9.0, 20.0))


@pytest.fixture(scope="module")
def references(data: Path) -> Path:
    folder = data / "dicom_seg"
    if not folder.is_dir():
        pytest.skip(f"dcmqi's references are not here ({folder}); set GTVBENCH_TEST_DATA")
    return folder


def test_the_liver_is_the_reference_s_voxel_for_voxel_on_the_ct(references: Path) -> None:
    image = read_series(sorted((references / "ct-3slice").iterdir()))
    found = segment_mask(
        read_segmentation(references / "liver.dcm"), "Liver", image.volume.grid, image.frame_of_reference
    )
    reference = read_volume(references / "liver_seg.nrrd")
    turned = canonical(image.volume.grid).apply(found.array)
    np.testing.assert_array_equal(turned, canonical(reference.grid).apply(reference.array) == 1)
    assert found.notes == ()


def test_overlapping_segments_are_the_reference_s_voxel_for_voxel(references: Path) -> None:
    read = read_segmentation(references / "partial_overlaps.dcm")
    for label, file, value in (
        ("GREEN", 1, 1), ("ORANGE", 2, 2), ("PURPLE", 3, 3), ("LIGHT_BLUE", 1, 4), ("DARK_BLUE", 1, 5),
    ):  # fmt: skip
        reference = read_volume(references / f"partial_overlaps-{file}.nrrd")
        found = segment_mask(read, label, reference.grid)
        np.testing.assert_array_equal(found.array, reference.array == value)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A segmentation of two blobs on the middle slices of a CT; empty slices are not in the file."""
    rng = np.random.default_rng(1)
    person, study = Person.draw(rng, "seg"), Study("ct", Person.draw(rng, "seg").scanned, "HN")
    slices, _ = series(person, study, ct_kind(person.uid("frame")), Volume(rng.normal(0, 50, SHAPE), GRID))
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 3:7, 2:9] = rng.random((2, 4, 7)) < 0.6
    path = tmp_path_factory.mktemp("seg") / "seg.dcm"
    ds = segmentation(person, study, 9, slices, {"GTVp": mask, "GTVn": np.roll(mask, 1, axis=2)})
    ds.save_as(path, enforce_file_format=True)
    return path, mask


@pytest.mark.parametrize(
    "turn",
    [
        Reorientation((0, 1, 2), (False,) * 3),
        Reorientation((0, 1, 2), (True, False, True)),
        Reorientation((2, 0, 1), (False,) * 3),
    ],
)
def test_an_image_of_any_orientation_gets_the_same_voxels_and_slices_that_the_file_leaves_out_are_empty(
    written: tuple[Path, np.ndarray], turn: Reorientation
) -> None:
    path, mask = written
    found = segment_mask(read_segmentation(path), "GTVp", turn.apply_to_grid(GRID))
    np.testing.assert_array_equal(found.array, turn.apply(mask))
    assert found.notes == ()


def test_a_part_of_the_image_gets_its_part_and_a_note(written: tuple[Path, np.ndarray]) -> None:
    path, mask = written
    part = Grid((3, 12, 10), GRID.spacing, (-7.0, -9.0, 20.0 + 3 * 3.0))
    found = segment_mask(read_segmentation(path), "GTVp", part)
    np.testing.assert_array_equal(found.array, mask[3:])
    assert f"{mask[2].sum()} voxels of the segmentation lie beyond the image" in found.notes[0]


def test_a_grid_between_the_voxels_is_resampled_with_a_note(written: tuple[Path, np.ndarray]) -> None:
    path, mask = written
    found = segment_mask(read_segmentation(path), "GTVp", replace(GRID, origin=(-6.6, -9.0, 20.0)))
    assert "resampled" in found.notes[0]
    np.testing.assert_array_equal(found.array, mask)  # .27 of a voxel: the nearest is the same


def test_another_frame_of_reference_a_wrong_label_and_another_place_are_refused(
    written: tuple[Path, np.ndarray],
) -> None:
    read = read_segmentation(written[0], "P-1")
    with pytest.raises(DataError, match="another frame of reference"):
        segment_mask(read, "GTVp", GRID, "1.2.3")
    with pytest.raises(DataError, match="no segment is labelled 'Larynx'") as error:
        segment_mask(read, "Larynx", GRID)
    assert error.value.remedy == "the file has GTVp, GTVn"
    with pytest.raises(DataError, match="lies outside the image"):
        segment_mask(read, "GTVp", replace(GRID, origin=(900.0, 0.0, 0.0)))


@fuzzed(60)
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_a_mask_or_a_clear_error(written: tuple[Path, np.ndarray], tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(written[0].read_bytes())
    for position in rng.integers(132, len(data), 8):
        data[position] = rng.integers(0, 256)
    path = tmp_path / "damaged.dcm"
    path.write_bytes(data[: rng.integers(200, len(data))] if rng.random() < 0.5 else data)
    with contextlib.suppress(DataError):
        read = read_segmentation(path, "P-1")
        assert segment_mask(read, read.segments[0].label, GRID).array.shape == SHAPE


@pytest.mark.parametrize(
    ("keyword", "value", "told"),
    [("Modality", "CT", "not SEG"), ("NumberOfFrames", 10**9, "make"), ("SegmentSequence", [], "names no segment")],
)
def test_headers_that_cannot_be_are_refused(
    written: tuple[Path, np.ndarray], tmp_path: Path, keyword: str, value: object, told: str
) -> None:
    ds = pydicom.dcmread(written[0])
    setattr(ds, keyword, value)
    ds.save_as(tmp_path / "odd.dcm")
    with pytest.raises(DataError, match=told):
        read_segmentation(tmp_path / "odd.dcm")
